"""Entitlements: the bounds of what a consumer can ever receive, whatever its filters ask for.

They are one more condition, joined by AND with every filter of the consumer where its view is
made. An AND is TRUE only where both sides are, so nothing in a filter can widen them: not OR, NOT
or CASE, and not NULL, since a row for which the bound is NULL is not TRUE. What a view's
transformation and format do comes behind it.

    bounded(spec, Entitlements(venues=("XNAS",)).bounds())  # what is left of what was asked for
"""

from functools import lru_cache
from typing import Annotated, Final, Literal, NamedTuple, Self

import msgspec
from msgspec import Meta

from marketdata.filters import Filter, compile_filter
from marketdata.filters.normalize import normalize
from marketdata.filters.tree import And, Column, Expression, In, InSet, Or, Text, Truth
from marketdata.plans import DelaySeconds, Delivery, MaxRate, ViewSpec

Kind = Literal["trade", "quote", "bar", "book", "status", "statistic"]
Mic = Annotated[str, Meta(pattern="^[A-Z0-9]{4}$")]
Symbol = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
SetName = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$")]

Venues = Annotated[
    tuple[Mic, ...],
    Meta(max_length=1000, description="Venues by MIC (ISO 10383).", examples=[["XNAS", "XNYS"]]),
]
Kinds = Annotated[
    tuple[Kind, ...],
    Meta(max_length=100, description="Kinds of events.", examples=[["trade", "quote"]]),
]
Sources = Annotated[
    tuple[Symbol, ...],
    Meta(max_length=1000, description="Sources of events.", examples=[["feed-a"]]),
]
Instruments = Annotated[
    tuple[Symbol, ...],
    Meta(
        max_length=1000,
        description="Instruments by name, beside those of `instrument_sets`.",
        examples=[["AAPL", "MSFT"]],
    ),
]
InstrumentSets = Annotated[
    tuple[SetName, ...],
    Meta(
        max_length=100,
        description="Instrument sets by name, beside `instruments`; what they hold may change.",
        examples=[["sp500"]],
    ),
]

_NOTHING: Final = Filter.nothing().canonical
_KEPT: Final = 2048
_KEPT_BYTES: Final = 4096
"""For how many conditions what is left of them is kept, and how long they are at most, as JSON."""

MaximumRate = Annotated[
    MaxRate,
    Meta(description="Most events a second of each of its views; see `delivery.max_rate`."),
]
MinimumDelay = Annotated[
    DelaySeconds,
    Meta(
        description="How old an event is at least when it is delivered, in seconds since it was "
        "written to the log; a subscription may ask for more.",
        examples=[900],
    ),
]


class Bounds(NamedTuple):
    """What a consumer may receive, by its entitlements and by routing rules.

    Attributes:
        events: which events.
        delay_seconds: how old they are at least.
        max_rate: how many of them a second in each view; None for any number.
        priorities: bound nothing: see `marketdata.routing_rules.priority_of`.
    """

    events: Filter
    delay_seconds: int = 0
    max_rate: int | None = None
    priorities: tuple[tuple[Filter, int], ...] = ()

    def within(self, routed: Filter, priorities: tuple[tuple[Filter, int], ...] = ()) -> Self:
        """The same for those events only that pass another filter, too, with priorities."""
        return self._replace(events=self.events & routed, priorities=priorities)


class Entitlements(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a consumer may receive: events that are within every bound.

    A bound is a list of what is allowed; null is no bound, an empty list allows nothing.
    `instruments` and `instrument_sets` are one bound: what is in either is allowed. Lists are kept
    sorted and without doubles. `minimum_delay_seconds` is how old events are at least; 0 is none.
    `maximum_rate` bounds each view by itself.
    """

    venues: Venues | None = None
    kinds: Kinds | None = None
    sources: Sources | None = None
    instruments: Instruments | None = None
    instrument_sets: InstrumentSets | None = None
    maximum_rate: MaximumRate | None = None
    minimum_delay_seconds: MinimumDelay | None = None

    def __post_init__(self) -> None:
        if not self.minimum_delay_seconds:
            msgspec.structs.force_setattr(self, "minimum_delay_seconds", None)
        for name in self.__struct_fields__:
            values = getattr(self, name)
            if isinstance(values, tuple):
                msgspec.structs.force_setattr(self, name, tuple(sorted(set(values))))

    def filter(self) -> Filter:
        """The filter that passes what is allowed."""
        bounds = {"venue": self.venues, "kind": self.kinds, "source": self.sources}
        terms = [one_of(name, values) for name, values in bounds.items() if values is not None]
        if self.instruments is not None or self.instrument_sets is not None:
            sets = (InSet(Column("instrument"), name) for name in self.instrument_sets or ())
            terms.append(Or((one_of("instrument", self.instruments or ()), *sets)))
        return Filter(normalize(And(tuple(terms))))

    def bounds(self) -> Bounds:
        """What is allowed where nothing else bounds it."""
        return Bounds(self.filter(), self.minimum_delay_seconds or 0, self.maximum_rate)


EVERYTHING: Final = Entitlements()
NOTHING: Final = Entitlements(venues=(), kinds=(), sources=(), instruments=(), instrument_sets=())


def bounded(spec: ViewSpec, allowed: Bounds) -> ViewSpec:
    """The view that is left of one that was asked for.

    Args:
        allowed: what its consumer may receive, by its entitlements and by routing rules.

    Where nothing is left, all views of a form become the same one, with the filter `FALSE`.
    What the instrument sets hold now is not looked at, since it may change.
    """
    delivery = _paced(_delayed(spec.delivery, allowed.delay_seconds), allowed.max_rate)
    if delivery != spec.delivery:
        spec = msgspec.structs.replace(spec, delivery=delivery)
    one_of = spec.delivery.sample.one_of if spec.delivery.sample else 0
    left = _left(msgspec.json.encode(spec.predicate), allowed.events, one_of)
    if left is None:
        return spec
    return msgspec.structs.replace(spec, filter=left.canonical, predicate=left.to_json())


def _left(predicate: bytes, events: Filter, one_of: int) -> Filter | None:
    """What is left of a condition, as JSON; None for all of it. Many ask for few."""
    long = len(predicate) + len(events.canonical) > _KEPT_BYTES
    return (_worked_out if long else _kept)(predicate, events, one_of)


def _worked_out(predicate: bytes, events: Filter, one_of: int) -> Filter | None:
    asked = Filter.from_json(msgspec.json.decode(predicate))
    left = asked & events & _sampled(one_of)
    if left == asked:
        return None
    return left if left.kinds else Filter.nothing()


_kept = lru_cache(_KEPT)(_worked_out)


def _sampled(one_of: int) -> Filter:
    """What passes of 1 of N: no state is needed, and whoever looks at filters knows of it."""
    if not one_of:
        return Filter.everything()
    return compile_filter(f"sequence % {one_of} = 0")


def _delayed(delivery: Delivery, least: int) -> Delivery:
    """The delivery with the longer one of two delays in seconds."""
    if (delivery.delay_seconds or 0) >= least:
        return delivery
    return msgspec.structs.replace(delivery, delay_seconds=least).canonical()


def _paced(delivery: Delivery, most: int | None) -> Delivery:
    """The delivery with the lower one of two rates."""
    if most is None or (delivery.max_rate and delivery.max_rate <= most):
        return delivery
    return msgspec.structs.replace(delivery, max_rate=most).canonical()


def receives_nothing(spec: ViewSpec) -> bool:
    """Whether no event can ever be in a view."""
    return spec.filter == _NOTHING


def one_of(column: str, values: tuple[str, ...]) -> Expression:
    """The condition that a column of texts has one of some values."""
    return In(Column(column), tuple(map(Text, values))) if values else Truth(False)
