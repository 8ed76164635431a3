"""Plans: the immutable, numbered, digested compilation of every active subscription.

A plan lists the distinct *views*; subscriptions with equal filter, transformation, format and
delivery share one. A view is named by the digest of its canonical form, so the same view has the
same name and topic in every plan, and what it makes of a frame depends on the view and on the
instrument sets that its filter names, never on the plan's number.
Plans travel as JSON on the compacted topic `control/plans` under the key `PLAN_KEY`.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from marketdata.filters import Filter
from marketdata.filters.sets import members_of
from marketdata.filters.tree import Expression
from marketdata.formats.registry import LEAST_ROWS, MOST_ROWS
from marketdata.names import Name
from marketdata.reference.spec import TableRef, UnknownTable
from marketdata.topics import delivery_topic
from marketdata.transformations import Transformation

PLAN_KEY: Final = "plan"

Compression = Literal["none", "lz4", "zstd"]
Kinds = Literal["apart", "together"]
Granularity = Literal["frame", "event"]
MaxRate = Annotated[int, Meta(ge=1, le=10_000_000)]

USUAL_PRIORITY: Final = 1
LONGEST_DELAY_S: Final = 86_400
"""The log has to keep what waits."""

DelaySeconds = Annotated[int, Meta(ge=0, le=LONGEST_DELAY_S)]
EveryMs = Annotated[int, Meta(ge=50, le=60_000)]


class Conflate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The latest event of each instrument and kind in each interval; the others are skipped.

    Attributes:
        every_ms: length of the intervals, which begin at multiples of it.
    """

    every_ms: EveryMs


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Only some events of each instrument.

    Attributes:
        one_of: those whose sequence is a multiple of it.
    """

    one_of: Annotated[int, Meta(ge=2, le=1_000_000)]


class Delivery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a view's frames are written.

    Attributes:
        compression: of each message.
        kinds: whether a message holds events of one kind (`apart`, if absent) or, in the order of
            the log, of several (`together`; see `marketdata.mixed`).
        granularity: whether a message is a frame (if absent) or one event.
        max_events: most events in a frame; absent: as many as its format takes.
        conflate: see `marketdata.conflation`; absent: every event is delivered.
        sample: 1 of N; absent: every event is delivered.
        max_rate: most events a second, of all partitions together; absent: no bound.
        priority: 3 before 0; absent: 1. See `marketdata.lanes`.
        delay_seconds: how old an event is at least when it is taken from the log; absent: 0.
        follows: the workflow whose subscriptions have acknowledged an event, and all before it in
            its partition, when it is taken from the log; absent: it waits for nobody.
    """

    compression: Compression = "none"
    # Absent where not asked for: views that were made before it was known keep their names.
    kinds: (
        Annotated[
            Kinds,
            Meta(
                description="apart: a message holds events of one kind. together: a message may "
                "hold events of several kinds, with their kind in a column. Where kinds take turns "
                "its messages are much larger, and a busy system much faster."
            ),
        ]
        | UnsetType
    ) = UNSET
    granularity: (
        Annotated[
            Granularity,
            Meta(
                description="frame: a message holds many events. event: a message holds one, its "
                "key is the instrument, and its topic has a Pulsar schema where the format has "
                "one. Frames are many times cheaper."
            ),
        ]
        | UnsetType
    ) = UNSET
    max_events: (
        Annotated[
            int,
            Meta(
                ge=LEAST_ROWS,
                le=MOST_ROWS,
                description="Most events in a message; if absent, as many as its format takes.",
            ),
        ]
        | UnsetType
    ) = UNSET
    priority: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=3,
                description="3 is the highest; 1 if absent. Priorities that have functions of "
                "their own in the topology are not held up by what others have to do. Does "
                "nothing for what is delayed, conflated or follows a workflow.",
            ),
        ]
        | UnsetType
    ) = UNSET
    delay_seconds: (
        Annotated[
            DelaySeconds,
            Meta(
                description="How old an event is at least, since it was written to the log, when "
                "it is delivered; 0 if absent. The topology says which delays there are. The "
                "consumer's entitlements may ask for more: then that is what holds.",
            ),
        ]
        | UnsetType
    ) = UNSET
    follows: (
        Annotated[
            Name,
            Meta(
                description="A workflow. An event is delivered only when all open subscriptions of"
                " the consumers of that workflow have acknowledged everything up to it in its"
                " partition of the log. The topology says which workflows can be followed. Not"
                " with delay_seconds, conflate or max_rate.",
                examples=["analysis"],
            ),
        ]
        | UnsetType
    ) = UNSET
    conflate: (
        Annotated[
            Conflate,
            Meta(
                description="Of what comes in each interval of the log's time only the latest event"
                " of each instrument and kind. What was skipped is told with what is delivered."
            ),
        ]
        | UnsetType
    ) = UNSET
    sample: (
        Annotated[
            Sample,
            Meta(
                description="Of each instrument only the events whose `sequence` is a multiple of"
                " N. Sequences count all kinds of events, also those that the filter leaves out."
            ),
        ]
        | UnsetType
    ) = UNSET
    max_rate: (
        Annotated[
            MaxRate,
            Meta(
                description="Most events a second. An interval (a second, or `conflate`'s) with"
                " more is conflated; where there are more instruments and kinds than that, they"
                " take turns. Each partition has an even share. The consumer's entitlements may"
                " allow less: then that is what holds."
            ),
        ]
        | UnsetType
    ) = UNSET

    @property
    def conflates(self) -> bool:
        """Whether events wait for the end of an interval, in which others may replace them."""
        return self.conflate is not UNSET or self.max_rate is not UNSET

    @property
    def as_entries(self) -> bool:
        """Whether several messages are stored together, as one entry."""
        return self.by_event or self.conflates

    @property
    def by_event(self) -> bool:
        """Whether a message holds one event."""
        return self.granularity == "event"

    @property
    def together(self) -> bool:
        """Whether a message may hold events of several kinds."""
        return self.kinds == "together" and not self.conflates

    def canonical(self) -> "Delivery":
        """The one form of all that say the same."""
        waits = self.delay_seconds or self.conflates or self.follows
        usual = self.priority == USUAL_PRIORITY or waits
        return msgspec.structs.replace(
            self,
            kinds=self.kinds if self.together else UNSET,
            granularity=self.granularity if self.by_event else UNSET,
            priority=UNSET if usual else self.priority,
            delay_seconds=self.delay_seconds or UNSET,
        )


class ViewSpec(msgspec.Struct, frozen=True):
    """What a view is made of.

    Attributes:
        filter: canonical SQL of the filter, "" for everything.
        predicate: the filter's tree as JSON (`Filter.to_json`), None for everything.
        transformation: in its canonical form.
        format: the name of a format (`marketdata.formats`); a plan may name one that is not
            installed where it is read.
        computed: the trees of the columns that the transformation computes; absent without any.
        conditions: the trees of its validation rules; absent without any.
    """

    filter: str = ""
    predicate: Any = None
    transformation: Transformation = Transformation()
    format: str = "arrow"
    delivery: Delivery = Delivery()
    computed: dict[str, Expression] | UnsetType = UNSET
    conditions: dict[str, Expression] | UnsetType = UNSET


class View(ViewSpec, frozen=True):
    """A view: its parts with its name and its topic."""

    id: str = ""
    topic: str = ""


class Plan(msgspec.Struct, frozen=True):
    """What the functions execute.

    Attributes:
        number: rises by one with every plan; 0 is the empty plan before the first.
        digest: SHA-256 (hex) of the canonical JSON of views, sets and, where there are, tables.
        created_at_ns: nanoseconds since the epoch, UTC.
        correlation_id: of the request that caused the plan.
        views: distinct views, ordered by id.
        sets: the instrument sets that the views' filters name, each with its instruments in order.
        tables: the versions of the reference tables that the views' transformations name; absent
            without any. What they hold stands on the topic `control/reference`.
    """

    number: int
    digest: str
    created_at_ns: int
    correlation_id: str
    views: tuple[View, ...]
    sets: dict[str, tuple[str, ...]] = {}
    tables: dict[str, TableRef] | UnsetType = UNSET


_canonical: Final = msgspec.json.Encoder(order="deterministic")
_decode_plan: Final = msgspec.json.Decoder(Plan)


class _NamedTables(msgspec.Struct):
    tables: dict[str, TableRef] = {}


_decode_tables: Final = msgspec.json.Decoder(_NamedTables)


def view_of(spec: ViewSpec) -> View:
    """The view of a spec: its name is the first 16 hex digits of the canonical form's SHA-256."""
    form = _canonical.encode(
        [spec.filter, spec.transformation, spec.format, spec.delivery],
    )
    view_id = hashlib.sha256(form).hexdigest()[:16]
    return View(
        filter=spec.filter,
        predicate=spec.predicate,
        transformation=spec.transformation,
        format=spec.format,
        delivery=spec.delivery,
        computed=spec.computed,
        conditions=spec.conditions,
        id=view_id,
        topic=delivery_topic(view_id),
    )


def sets_of(specs: Iterable[ViewSpec]) -> frozenset[str]:
    """The names of the instrument sets that the filters of some views ask for."""
    # The text may hold the words in a literal, so the tree decides; most filters have no set.
    naming = (Filter.from_json(spec.predicate) for spec in specs if " IN SET " in spec.filter)
    return frozenset(name for one in naming for name in one.sets)


def tables_of(specs: Iterable[ViewSpec]) -> frozenset[str]:
    """The names of the reference tables that the transformations of some views ask for."""
    return frozenset(one.table for spec in specs for one in spec.transformation.enrich or ())


def compile_plan(
    number: int,
    specs: Iterable[ViewSpec],
    *,
    created_at_ns: int,
    correlation_id: str = "",
    sets: Mapping[str, Collection[str]] | None = None,
    tables: Mapping[str, TableRef] | None = None,
) -> Plan:
    """Compile the specs of all active subscriptions into a plan; equal specs give one view.

    Args:
        sets: at least those that the specs name (`sets_of`); the plan holds no others.
        tables: at least those that the specs name (`tables_of`); the plan holds no others.

    Raises:
        UnknownSet: a spec names a set that is not there.
        UnknownTable: a spec names a reference table that is not there.
    """
    by_id = {view.id: view for view in map(view_of, specs)}
    views = tuple(by_id[view_id] for view_id in sorted(by_id))
    held = {name: members_of(name, sets or {}) for name in sorted(sets_of(views))}
    joined = _tables_of(views, tables or {})
    digested = [views, held, joined] if joined else [views, held]
    digest = hashlib.sha256(_canonical.encode(digested)).hexdigest()
    return Plan(number, digest, created_at_ns, correlation_id, views, held, joined or UNSET)


def _tables_of(views: Iterable[View], tables: Mapping[str, TableRef]) -> dict[str, TableRef]:
    named = sorted(tables_of(views))
    for name in named:
        if name not in tables:
            raise UnknownTable(f"there is no reference table {name!r}")
    return {name: tables[name] for name in named}


EMPTY_PLAN: Final = compile_plan(0, (), created_at_ns=0)
"""The plan in force before the first one is published: no views."""


def encode_plan(plan: Plan) -> bytes:
    """A plan as JSON; equal plans give equal bytes."""
    return _canonical.encode(plan)


def decode_plan(data: bytes) -> Plan:
    """The plan in a message of `control/plans`.

    Raises:
        msgspec.ValidationError: the bytes are no plan of this version.
    """
    return _decode_plan.decode(data)


def tables_in(data: bytes) -> dict[str, TableRef]:
    """The tables of the plan in a message, without making its views: they may have megabytes.

    Raises:
        msgspec.ValidationError: the bytes are no plan of this version.
    """
    return _decode_tables.decode(data).tables
