"""Two views compared on frames of the log: which events appear, vanish or change.

Pure, and vectorised over frames. Routing and transformation are those of the distributor: the
index of filters, the rules, and `marketdata.view_events`. Custom transformations are not called: a
preview runs nobody's code in this process. What they would leave out counts as delivered, and their
columns are null.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from marketdata.arrays import codes_of
from marketdata.custom import Answer, custom_fields
from marketdata.errors import described
from marketdata.filters import Filter
from marketdata.filters.index import FilterIndex
from marketdata.formats import get_format
from marketdata.mixed import KIND_FIELD, mixed_batch
from marketdata.plans import View
from marketdata.reference import ReferenceTable
from marketdata.schemas import decimal_scale
from marketdata.splitting import Rows
from marketdata.view_events import taken, view_events

Sets = Mapping[str, Collection[str]]
Tables = Mapping[str, ReferenceTable]
Event = dict[str, Any]

_NONE = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Pair:
    """The view of a subscription now, and with the change; None where it has none."""

    before: View | None
    after: View | None


@dataclass(frozen=True, slots=True)
class Sample:
    """One event that makes a difference, as it would be delivered in JSON; None: not at all."""

    instrument: str
    epoch: int
    sequence: int
    before: Event | None
    after: Event | None


@dataclass
class Effect:
    """Events with one fate.

    Attributes:
        by_kind: how many, by kind.
        by_instrument: how many, by the number of the instrument.
        columns: of changed events, how many have another value in a column, or only one of both
            sides has the column.
    """

    by_kind: Counter[str] = field(default_factory=Counter)
    by_instrument: npt.NDArray[np.int64] = field(default_factory=_NONE.copy)
    columns: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)

    @property
    def events(self) -> int:
        """How many there are."""
        return self.by_kind.total()


@dataclass
class Outcome:
    """What a pair of views makes of the frames seen so far.

    Attributes:
        before, after: events that are delivered now, and with the change.
        failed: why no more is known of it: a filter or a transformation raised.
    """

    before: int = 0
    after: int = 0
    appear: Effect = field(default_factory=Effect)
    vanish: Effect = field(default_factory=Effect)
    change: Effect = field(default_factory=Effect)
    failed: str | None = None


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame of the log, with the numbers of its rows' instruments and what tables say of them."""

    batch: pa.RecordBatch
    kind: str
    instruments: npt.NDArray[np.int64]
    tables: Tables


class Comparison:
    """Pairs of views, side by side over frames.

    Args:
        pairs: by any names.
        sets_before, sets_after: at least the instrument sets that the views of a side name.
        tables: at least the reference tables that the views name.
        samples: most samples for each fate of each pair.

    Raises:
        FilterError: a view's filter is none, or names a set that is not there.
    """

    def __init__(
        self,
        pairs: Mapping[str, Pair],
        sets_before: Sets,
        sets_after: Sets,
        tables: Tables = MappingProxyType({}),
        *,
        samples: int,
    ) -> None:
        self.outcomes = {name: Outcome() for name in pairs}
        self._pairs = pairs
        self._tables = tables
        self._samples = samples
        self._before = _index({name: pair.before for name, pair in pairs.items()}, sets_before)
        self._after = _index({name: pair.after for name, pair in pairs.items()}, sets_after)
        self._compared = {name for name, pair in pairs.items() if _may_change(pair)}
        self._numbers: dict[str, int] = {}

    def add(self, batch: pa.RecordBatch, kind: str) -> None:
        """Take in a frame of the log."""
        failed: dict[str, Exception] = {}
        before = dict(self._before.match_rows(batch, kind, failed))
        after = dict(self._after.match_rows(batch, kind, failed))
        for name, error in failed.items():
            self._fail(name, error)
        touched = sorted(before.keys() | after.keys())
        if not touched:
            return
        frame = _Frame(batch, kind, self._instruments(batch), self._tables)
        every = np.arange(batch.num_rows, dtype=np.int64)
        for name in touched:
            if self.outcomes[name].failed is not None:
                continue
            routed = (
                every if rows is None else rows
                for rows in (before.get(name, _NONE), after.get(name, _NONE))
            )
            try:
                self._compare(name, frame, *routed)
            except Exception as error:  # noqa: BLE001 - whatever a view does, others are compared
                self._fail(name, error)

    def top(self, effect: Effect, most: int) -> list[tuple[str, int]]:
        """The instruments with most events of a fate, most first, then by name."""
        names = list(self._numbers)
        counts = effect.by_instrument
        held = np.flatnonzero(counts)
        ranked = sorted((-int(counts[number]), names[number]) for number in held.tolist())
        return [(name, -count) for count, name in ranked[:most]]

    def _compare(self, name: str, frame: _Frame, before: Rows, after: Rows) -> None:
        pair, outcome = self._pairs[name], self.outcomes[name]
        before = _kept(pair.before, frame, before)
        after = _kept(pair.after, frame, after)
        outcome.before += len(before)
        outcome.after += len(after)
        appearing = np.setdiff1d(after, before, assume_unique=True)
        vanishing = np.setdiff1d(before, after, assume_unique=True)
        self._note(outcome.appear, frame, appearing, Pair(None, pair.after))
        self._note(outcome.vanish, frame, vanishing, Pair(pair.before, None))
        if pair.before is None or pair.after is None or name not in self._compared:
            return
        common = np.intersect1d(before, after, assume_unique=True)
        if not len(common):
            return
        differing = _differences(
            _delivered(pair.before, frame, common), _delivered(pair.after, frame, common)
        )
        changed = np.zeros(len(common), np.bool_)
        for column, mask in differing.items():
            changed |= mask
            if mask.any():
                outcome.change.columns[column] += int(mask.sum())
        self._note(outcome.change, frame, common[changed], pair)

    def _note(self, effect: Effect, frame: _Frame, rows: Rows, sides: Pair) -> None:
        """Count rows, and keep some as they are delivered on the sides given."""
        if not len(rows):
            return
        effect.by_kind[frame.kind] += len(rows)
        counts = np.bincount(frame.instruments[rows], minlength=len(self._numbers))
        counts[: len(effect.by_instrument)] += effect.by_instrument
        effect.by_instrument = counts
        wanted = rows[: max(0, self._samples - len(effect.samples))]
        if len(wanted):
            effect.samples += _samples(frame, wanted, sides)

    def _instruments(self, batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
        """The numbers of the rows' instruments, the same in all frames."""
        column = batch.column("instrument")
        numbers = [
            self._numbers.setdefault(name, len(self._numbers))
            for name in column.dictionary.to_pylist()
        ]
        return np.array(numbers, np.int64)[codes_of(column)]

    def _fail(self, name: str, error: Exception) -> None:
        outcome = self.outcomes[name]
        outcome.failed = outcome.failed or described(error)


def _index(views: Mapping[str, View | None], sets: Sets) -> FilterIndex:
    return FilterIndex(
        {
            name: Filter.from_json(view.predicate).with_sets(sets)
            for name, view in views.items()
            if view is not None
        }
    )


def _may_change(pair: Pair) -> bool:
    """Whether an event that both views deliver may look different."""
    before, after = pair.before, pair.after
    return (
        before is not None
        and after is not None
        and (before.transformation, before.delivery.together)
        != (after.transformation, after.delivery.together)
    )


def _kept(view: View | None, frame: _Frame, rows: Rows) -> Rows:
    """Those of the routed rows that the view's validation rules leave."""
    if view is None or not view.transformation.all_rules or not len(rows):
        return rows
    joined = view.transformation.joined(taken(frame.batch, rows), frame.tables)
    checked = view.transformation.check(joined, view.conditions or None)
    return rows if checked.rows is None else rows[checked.rows]


def _delivered(view: View, frame: _Frame, rows: Rows) -> pa.RecordBatch:
    """Events as the view delivers them; rows that its rules leave, at least one."""
    events = taken(frame.batch, rows)
    if view.delivery.together:
        events = mixed_batch([(frame.kind, events)])
    joined = view.transformation.joined(events, frame.tables)
    checked = view.transformation.check(joined, view.conditions or None)
    return view_events(view, joined.events, _not_called, checked).events


def _not_called(view: View, rows: pa.RecordBatch) -> Answer:
    custom = view.transformation.custom
    fields = custom_fields(custom) if custom else []
    return Answer(None, tuple(pa.nulls(rows.num_rows, field.type) for field in fields))


def _differences(before: pa.RecordBatch, after: pa.RecordBatch) -> dict[str, npt.NDArray[np.bool_]]:
    """By column the rows in which two batches of the same events differ."""
    rows = before.num_rows
    told = {}
    for name in dict.fromkeys((*before.schema.names, *after.schema.names)):
        old, new = (batch.schema.get_field_index(name) for batch in (before, after))
        if min(old, new) < 0 or not _alike(before.schema.field(old), after.schema.field(new)):
            told[name] = np.ones(rows, np.bool_)
        else:
            told[name] = _differ(_values(before.column(old)), _values(after.column(new)))
    return told


def _alike(before: pa.Field, after: pa.Field) -> bool:
    """Whether values of two columns can be compared: 1 of 0 digits is not 1 of 9."""
    return before.type == after.type and decimal_scale(before) == decimal_scale(after)


def _values(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _differ(before: pa.Array, after: pa.Array) -> npt.NDArray[np.bool_]:
    """Where two columns of one type differ; nulls, and what is no number, are alike."""
    nothing, nothing_after = (pc.is_null(each, nan_is_null=True) for each in (before, after))
    unequal = pc.fill_null(pc.not_equal(before, after), fill_value=False)
    both = pc.and_not(unequal, pc.and_(nothing, nothing_after))
    return pc.or_(pc.xor(nothing, nothing_after), both).to_numpy(zero_copy_only=False)


def _samples(frame: _Frame, rows: Rows, sides: Pair) -> Iterable[Sample]:
    """Some rows, as they are delivered on each side."""
    shown = [
        [None] * len(rows) if view is None else _shown(_delivered(view, frame, rows), frame.kind)
        for view in (sides.before, sides.after)
    ]
    keys = taken(frame.batch, rows).select(["instrument", "epoch", "sequence"]).to_pylist()
    return (
        Sample(before=before, after=after, **key)
        for key, before, after in zip(keys, *shown, strict=True)
    )


def _shown(events: pa.RecordBatch, kind: str) -> list[Event]:
    """Delivered events as JSON has them: exact decimals as text, times with nanoseconds."""
    if events.schema.get_field_index(KIND_FIELD.name) >= 0:  # a mixed frame of one kind
        events = events.drop_columns([KIND_FIELD.name])
        events = events.replace_schema_metadata({**events.schema.metadata, b"kind": kind.encode()})
    lines = get_format("json").encode(events).splitlines()
    return [msgspec.json.decode(line) for line in lines]
