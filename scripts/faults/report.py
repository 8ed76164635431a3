"""What happened in a run: Markdown for people, plain values for JSON."""

import statistics
from typing import Any

from scripts.faults.kinds import FaultKind
from scripts.faults.run import Injected, Outcome
from scripts.verification.report import StreamReport


def markdown(outcome: Outcome) -> str:
    """The report."""
    settings = outcome.settings
    verdict = "nothing lost, doubled, reordered or changed" if outcome.ok else "broken"
    minutes = settings.seconds / 60
    parts = len(outcome.parts)
    lines = [
        f"Seed {settings.seed}, {minutes:.1f} min at {settings.rate:,} events/s, {parts} parts.",
        "",
        f"**Verdict: {verdict}.**",
        "",
        "| what | |",
        "| --- | ---: |",
        f"| faults | {len(outcome.injected)} |",
        f"| events accepted for certain | {_accepted(outcome) - outcome.uncertain:,} |",
        f"| events uncertain (their publisher died) | {outcome.uncertain:,} |",
        f"| events delivered to all views | {_delivered(outcome):,} |",
        f"| messages redelivered to consumers | {_redelivered(outcome):,} |",
        f"| publisher lives | {outcome.publisher_lives} |",
        f"| longest time without any event | {outcome.longest_outage_s:.1f} s |",
        "",
        "| fault | times | until events flowed in all partitions again: median | longest |",
        "| --- | ---: | ---: | ---: |",
        *(_row(kind, outcome.injected) for kind in FaultKind if kind in settings.kinds),
        "",
        "| stream | due | delivered | found |",
        "| --- | ---: | ---: | --- |",
        *_streams(outcome),
    ]
    if outcome.failures:
        lines += ["", "Failed besides:", "", *(f"- {text}" for text in outcome.failures)]
    samples = [
        f"- {stream.name}: {violation}: {text}"
        for part in outcome.parts
        for stream in part.streams
        for violation, texts in stream.samples.items()
        for text in texts
    ]
    if samples:
        lines += ["", "Samples of what was found:", "", *samples]
    return "\n".join(lines) + "\n"


def figures(outcome: Outcome) -> dict[str, Any]:
    """The report as plain values."""
    settings = outcome.settings
    return {
        "ok": outcome.ok,
        "seed": settings.seed,
        "seconds": settings.seconds,
        "rate": settings.rate,
        "accepted": _accepted(outcome),
        "uncertain": outcome.uncertain,
        "delivered": _delivered(outcome),
        "redelivered_messages": _redelivered(outcome),
        "publisher_lives": outcome.publisher_lives,
        "longest_outage_s": outcome.longest_outage_s,
        "load_s": outcome.load_s,
        "checking_s": outcome.checking_s,
        "faults": [
            {
                "kind": str(each.fault.kind),
                "what": str(each.fault),
                "started_s": each.started_s,
                "recovery_s": each.recovery_s,
            }
            for each in outcome.injected
        ],
        "failures": outcome.failures,
        "parts": [part.figures() for part in outcome.parts],
    }


def _row(kind: FaultKind, injected: list[Injected]) -> str:
    mine = [each for each in injected if each.fault.kind is kind]
    known = [each.recovery_s for each in mine if each.recovery_s is not None]
    if not known:
        return f"| {kind} | {len(mine)} | | |"
    return f"| {kind} | {len(mine)} | {statistics.median(known):.1f} s | {max(known):.1f} s |"


def _streams(outcome: Outcome) -> list[str]:
    due: dict[str, int] = {}
    delivered: dict[str, int] = {}
    found: dict[str, list[str]] = {}
    for part in outcome.parts:
        for stream in part.streams:
            # Late views are many and small: they are one line.
            name = "late views" if stream.name.startswith("late-") else stream.name
            due[name] = due.get(name, 0) + stream.expected
            delivered[name] = delivered.get(name, 0) + stream.delivered
            found.setdefault(name, []).extend(_found(stream))
    return [
        f"| {name} | {due[name]:,} | {delivered[name]:,} | {', '.join(found[name]) or 'in order'} |"
        for name in due
    ]


def _found(stream: StreamReport) -> list[str]:
    return [f"{count} {violation}" for violation, count in stream.violations.items()]


def _accepted(outcome: Outcome) -> int:
    return sum(part.accepted for part in outcome.parts)


def _delivered(outcome: Outcome) -> int:
    return sum(view.delivered for part in outcome.parts for view in part.views.values())


def _redelivered(outcome: Outcome) -> int:
    return sum(stream.redelivered for part in outcome.parts for stream in part.streams)
