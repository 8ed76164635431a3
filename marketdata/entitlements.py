"""Entitlements: the bounds of what a consumer can ever receive, whatever its filters ask for.

They are one more condition, joined by AND with every filter of the consumer where its view is
made. An AND is TRUE only where both sides are, so nothing in a filter can widen them: not OR, NOT
or CASE, and not NULL, since a row for which the bound is NULL is not TRUE. What a view's
transformation and format do comes behind it.

    bounded(spec, Entitlements(venues=("XNAS",)).filter())  # what is left of what was asked for
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from marketdata.filters import Filter
from marketdata.filters.normalize import normalize
from marketdata.filters.tree import And, Column, Expression, In, InSet, Or, Text, Truth
from marketdata.plans import ViewSpec

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


class Entitlements(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a consumer may receive: events that are within every bound.

    A bound is a list of what is allowed; null is no bound, an empty list allows nothing.
    `instruments` and `instrument_sets` are one bound: what is in either is allowed. Lists are kept
    sorted and without doubles.
    """

    venues: Venues | None = None
    kinds: Kinds | None = None
    sources: Sources | None = None
    instruments: Instruments | None = None
    instrument_sets: InstrumentSets | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            values = getattr(self, name)
            if values is not None:
                msgspec.structs.force_setattr(self, name, tuple(sorted(set(values))))

    def filter(self) -> Filter:
        """The filter that passes what is allowed."""
        bounds = {"venue": self.venues, "kind": self.kinds, "source": self.sources}
        terms = [one_of(name, values) for name, values in bounds.items() if values is not None]
        if self.instruments is not None or self.instrument_sets is not None:
            sets = (InSet(Column("instrument"), name) for name in self.instrument_sets or ())
            terms.append(Or((one_of("instrument", self.instruments or ()), *sets)))
        return Filter(normalize(And(tuple(terms))))


EVERYTHING: Final = Entitlements()
NOTHING: Final = Entitlements(venues=(), kinds=(), sources=(), instruments=(), instrument_sets=())


def bounded(spec: ViewSpec, allowed: Filter) -> ViewSpec:
    """The view that is left of one that was asked for.

    Args:
        allowed: what its consumer may receive, by its entitlements and by routing rules.

    Where nothing is left, all views of a form become the same one, with the filter `FALSE`.
    What the instrument sets hold now is not looked at, since it may change.
    """
    asked = Filter.from_json(spec.predicate)
    left = asked & allowed
    if left == asked:
        return spec
    if not left.kinds:
        left = Filter.nothing()
    return msgspec.structs.replace(spec, filter=left.canonical, predicate=left.to_json())


def receives_nothing(spec: ViewSpec) -> bool:
    """Whether no event can ever be in a view."""
    return spec.filter == Filter.nothing().canonical


def one_of(column: str, values: tuple[str, ...]) -> Expression:
    """The condition that a column of texts has one of some values."""
    return In(Column(column), tuple(map(Text, values))) if values else Truth(False)
