"""Admission: what the policies let into the log of a frame that is out of order.

Sound frames never come here. `pass` admits everything; `drop_repeats` leaves out what came before;
`reject` refuses the whole frame for one reversal or repeat; `hold` hands what is beyond a hole to
the reorder buffer. What is left out is reported. The state of the log stays as it is.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from functions.operators.found import Finding
from functions.operators.pairs import Piece
from functions.operators.reorder import Arrival, Origin, ReorderBuffer
from functions.operators.source_order import MAX_RUNS_A_PAIR, Rows, SourceOrder
from marketdata.ordering import SourcePolicy

DEFAULT: Final = "default"
"""The name of the policy of sources that no other name or pattern fits."""


class Policies:
    """The policies of the sources of a partition.

    Args:
        declared: by name, pattern (`feed-*`) or `default`; a name goes before patterns, and of
            these the longest that fits.
        order: knows the names of the sources.

    Attributes:
        lenient: every source may pass, so nothing needs admission.
        hold_rows: most rows that may wait.
    """

    def __init__(self, declared: Mapping[str, SourcePolicy], order: SourceOrder) -> None:
        self.lenient = all(each.policy == "pass" for each in declared.values())
        self.hold_rows = min(
            (each.hold_rows for each in declared.values() if each.policy == "hold"),
            default=SourcePolicy().hold_rows,
        )
        self._declared = declared
        self._order = order
        self._known: list[SourcePolicy] = []
        self._late_after_ns: dict[int, int] = {}

    def of(self, source: int) -> SourcePolicy:
        """The policy of a source, by its id."""
        self._learn()
        return self._known[source]

    def of_pair(self, pair: int) -> SourcePolicy:
        """The policy of a pair's source."""
        return self.of(self._order.source_of(pair))

    @property
    def late_after_ns(self) -> dict[int, int]:
        """How far behind `ts_event` may be, by source id; sources without a limit are left out."""
        self._learn()
        return self._late_after_ns

    def _learn(self) -> None:
        for name in self._order.sources.names[len(self._known) :]:
            policy = policy_of(self._declared, name)
            if policy.late_after_ms is not None:
                self._late_after_ns[len(self._known)] = policy.late_after_ms * 1_000_000
            self._known.append(policy)


def policy_of(declared: Mapping[str, SourcePolicy], source: str) -> SourcePolicy:
    """The policy that is declared for a source.

    >>> policy_of({"feed-*": SourcePolicy("hold"), "default": SourcePolicy()}, "feed-a").policy
    'hold'
    """
    if source in declared and source != DEFAULT:
        return declared[source]
    fitting = [each for each in declared if each != DEFAULT and fnmatchcase(source, each)]
    name = max(fitting, key=lambda each: (len(each), each), default=DEFAULT)
    return declared.get(name, SourcePolicy())


class Admission(NamedTuple):
    """What becomes of a frame.

    Attributes:
        left_out: rows that do not go into the log with their frame; None when all do.
        waiting: those of them that wait in the buffer.
        findings: about rows that the log will never have.
        refusal: why the frame is refused whole; empty when it is not.
    """

    left_out: npt.NDArray[np.bool_] | None = None
    waiting: list[int] = []  # noqa: RUF012 - nobody changes a tuple's default
    findings: list[Finding] = []  # noqa: RUF012
    refusal: str = ""


def concerns(rows: Rows, policies: Policies, buffer: ReorderBuffer) -> bool:
    """Whether a frame needs admission: odd pairs whose policy is not `pass`, or rows that wait."""
    if len(buffer) and any(pair in buffer for pair in rows.pairs.tolist()):
        return True
    if policies.lenient or not len(rows.odd_groups):
        return False
    odd = rows.pairs[rows.odd_groups].tolist()
    return any(policies.of_pair(pair).policy != "pass" for pair in odd)


def admit(
    rows: Rows,
    order: SourceOrder,
    policies: Policies,
    buffer: ReorderBuffer,
    *,
    origin: Origin,
    fill: bool,
    now_s: float,
) -> Admission:
    """Decide about a frame by the policies of its sources.

    Args:
        rows: the frame compared with `order`.
        order, policies, buffer: of the partition; only the buffer takes rows in.
        origin: what the buffer keeps the rows of.
        fill: the frame answers a resend request.
        now_s: on the clock of the buffer.
    """
    decision = _Decision(rows, order, origin)
    odd = rows.odd_groups.tolist()
    by_policy = {n: policies.of_pair(int(rows.pairs[n])) for n in odd}
    for n, policy in by_policy.items():
        if policy.policy == "reject":
            decision.examine(n, fill=fill)
    if decision.refusals:
        reason = f"{len(decision.refusals)} findings; the first: {decision.refusals[0]}"
        return Admission(findings=decision.findings, refusal=reason)
    for n, policy in by_policy.items():
        if policy.policy == "drop_repeats":
            decision.drop_repeats(n)
    held = [n for n, pair in enumerate(rows.pairs.tolist()) if pair in buffer]
    for n in dict.fromkeys([*held, *(n for n in odd if by_policy[n].policy == "hold")]):
        policy = policies.of_pair(int(rows.pairs[n]))
        decision.hold(n, buffer, now_s + policy.hold_ms / 1000)
    return Admission(decision.left_out, decision.waiting, decision.findings)


class _Decision:
    """Gathers what is decided about one frame."""

    def __init__(self, rows: Rows, order: SourceOrder, origin: Origin) -> None:
        self.left_out: npt.NDArray[np.bool_] | None = None
        self.waiting: list[int] = []
        self.findings: list[Finding] = []
        self.refusals: list[str] = []
        self._rows = rows
        self._order = order
        self._origin = origin

    def examine(self, n: int, *, fill: bool) -> None:
        """Note the reversals and repeats of a pair that may have none."""
        source, instrument = self._order.names(int(self._rows.pairs[n]))
        for run, piece in self._pieces(n):
            if piece.kind in ("old", "repeat") or (piece.kind == "late" and not fill):
                kind = "repeat" if piece.kind == "repeat" else "reversal"
                self._find(n, run, piece, kind, "rejected")
                self.refusals.append(
                    f"{kind} of source_sequence {piece.first} to {piece.last}"
                    f" of {source!r} for {instrument!r}"
                )

    def drop_repeats(self, n: int) -> None:
        """Leave out what came before, unless the pair is too wild to tell."""
        if len(self._rows.runs(n)) > MAX_RUNS_A_PAIR:
            return
        for run, piece in self._pieces(n):
            if piece.kind == "repeat":
                self._find(n, run, piece, "repeat", "dropped")
                at = run.start + piece.first - int(self._rows.numbers[run.start])
                self._leave_out(self._rows.order[at : at + piece.last - piece.first + 1])

    def hold(self, n: int, buffer: ReorderBuffer, due_s: float) -> None:
        """Have the buffer take in what is beyond the log."""
        span = self._rows.group(n)
        number = int(self._rows.pairs[n])
        places = self._rows.order[span]
        arrivals = [
            Arrival(self._origin, *row)
            for row in zip(
                places.tolist(),
                self._rows.numbers[span].tolist(),
                self._rows.times[span].tolist(),
                strict=True,
            )
        ]
        admitted = buffer.admit(number, arrivals, due_s)
        at_once = {arrival.row for arrival in admitted.at_once}
        dropped = {arrival.row for arrival in admitted.repeats}
        self._leave_out(np.array([row for row in places.tolist() if row not in at_once], int))
        self.waiting += [
            row for row in places.tolist() if row not in at_once and row not in dropped
        ]
        self._report_repeats(number, admitted.repeats)

    def _report_repeats(self, pair: int, repeats: list[Arrival]) -> None:
        start = 0
        for n in range(1, len(repeats) + 1):
            if n == len(repeats) or repeats[n].number != repeats[n - 1].number + 1:
                first, last, events = repeats[start], repeats[n - 1], n - start
                self.findings.append(
                    Finding(
                        "repeat",
                        pair,
                        first.number,
                        last.number,
                        events,
                        -1,
                        first.ts_event_ns,
                        action="dropped",
                    )
                )
                start = n

    def _pieces(self, n: int) -> list[tuple[slice, Piece]]:
        """The pieces of a pair's runs, as they would be found one after the other."""
        pair = self._order.pair(int(self._rows.pairs[n]))
        found = []
        for run in self._rows.runs(n)[: MAX_RUNS_A_PAIR + 1]:
            first, last = (int(self._rows.numbers[at]) for at in (run.start, run.stop - 1))
            for piece in pair.classify(first, last, int(self._rows.times[run.start])):
                found.append((run, piece))
                if piece.kind != "repeat":
                    pair.take(piece, int(self._rows.times[run].max()), 0, 0)
        return found

    def _find(self, n: int, run: slice, piece: Piece, kind: str, action: str) -> None:
        at = run.start + piece.first - int(self._rows.numbers[run.start])
        self.findings.append(
            Finding(
                "repeat" if kind == "repeat" else "reversal",
                int(self._rows.pairs[n]),
                piece.first,
                piece.last,
                piece.last - piece.first + 1,
                -1,
                int(self._rows.times[at]),
                action="rejected" if action == "rejected" else "dropped",
            )
        )

    def _leave_out(self, places: npt.NDArray[np.int64]) -> None:
        if self.left_out is None:
            self.left_out = np.zeros(self._rows.size, dtype=bool)
        self.left_out[places] = True
