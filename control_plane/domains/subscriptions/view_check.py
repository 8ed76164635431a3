"""From a request to the view it asks for: filter and transformation are checked here, once.

Pure: no database, no broker. Everything refused comes back as InvalidRequestError whose problems
name the member of the request, for filters and expressions with the position in the text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType

import msgspec
import pyarrow as pa
from msgspec import UNSET

from control_plane.domains.consumers.models import Consumer
from control_plane.domains.rules.policy import Policy
from control_plane.domains.subscriptions.conflated import Left, left_of, refusal
from control_plane.domains.subscriptions.schemas import (
    ColumnOut,
    PulsarSchemaOut,
    SchemaOut,
    SubscriptionCreate,
)
from control_plane.domains.subscriptions.served import unserved
from control_plane.errors import ConflictError, FieldProblem, InvalidRequestError
from marketdata.custom import UnknownCustom
from marketdata.custom import resolved as resolved_custom
from marketdata.entitlements import Entitlements, bounded, receives_nothing
from marketdata.filters import Filter, FilterError, FilterTooComplex, UnknownSet, compile_filter
from marketdata.filters.computed import compile_computed
from marketdata.filters.parse import parse
from marketdata.filters.tree import Column, Expression, InSet, References, to_sql, walk
from marketdata.formats import FormatError, format_of_view, get_format
from marketdata.formats.registry import event_format
from marketdata.mixed import MIXED, mixed_schema
from marketdata.plans import ViewSpec, sets_of
from marketdata.reference import Enrichment, TableSpec, UnknownTable, references_of, resolved
from marketdata.rules import compile_rule
from marketdata.schemas import SCHEMA_VERSION, SEQUENCED_SCHEMAS, decimal_scale, declared_field
from marketdata.transformations import Transformation, TransformationError
from marketdata.view_schemas import kinds_of, topic_schema

KINDS_TOGETHER = (
    "Each message is one Arrow IPC stream with one record batch of events of several kinds. The"
    " column kind says which, and columns that an event's kind lacks are null. Prices are int64 in"
    " units of 1e-9, sizes int64 in units of 1e-8."
)

ONE_EVENT = (
    "Each message is one event by itself, without what a frame has around its events: a JSON"
    " object, an Avro datum, a Protobuf Event, a MessagePack map, a CSV header with one line,"
    " a FIX message. Its key is the instrument."
)

MAX_PARTS = 256
"""Most columns, literals and operations of all expressions of a view."""


def view_spec(
    data: SubscriptionCreate, tables: Mapping[str, TableSpec] = MappingProxyType({})
) -> ViewSpec:
    """The view that a request asks for.

    Args:
        tables: what the reference tables declare that its transformation names (`named_tables`).

    >>> view_spec(SubscriptionCreate(consumer="desk", name="all")).format
    'arrow'
    """
    problems: list[FieldProblem] = []
    canonical, predicate = "", None
    if data.filter.strip():
        try:
            compiled = compile_filter(data.filter)
            compiled.check_cost()
            canonical, predicate = compiled.canonical, compiled.to_json()
        except FilterError as error:
            error.locate(data.filter, 0)
            problems.append(sql_problem("/filter", error))
    transformation = data.transformation
    if transformation.custom:
        try:
            custom = resolved_custom(transformation.custom)
            transformation = msgspec.structs.replace(transformation, custom=custom)
        except UnknownCustom as error:
            hint = "it has to be installed here and, before, in the functions' environment"
            problems.append(FieldProblem("/transformation/custom", str(error), hint=hint))
    transformation = _with_tables(transformation, tables, problems)
    references = transformation.references
    computed = _compiled(
        transformation.compute or {}, "compute/{}", compile_computed, references, problems
    )
    rules = {name: rule.condition for name, rule in (transformation.rules or {}).items()}
    conditions = _compiled(rules, "rules/{}/condition", compile_rule, references, problems)
    parts = sum(1 for tree in (*computed.values(), *conditions.values()) for _ in walk(tree))
    if parts > MAX_PARTS:
        detail = f"the expressions and rules have {parts} parts together; {MAX_PARTS} are allowed"
        hint = "they hold up everybody's events; compute the rest where you read them"
        pointer = "/transformation" if conditions else "/transformation/compute"
        problems.append(FieldProblem(pointer, detail, hint=hint))
    try:
        transformation.validate()
    except TransformationError as error:
        problems.append(FieldProblem("/transformation", error.message, hint=error.hint))
    problems += _format_problems(data)
    if problems:
        raise _refused(problems)
    spec = ViewSpec(
        filter=canonical,
        predicate=predicate,
        transformation=transformation.canonical(),
        format=data.format,
        delivery=data.delivery.canonical(),
        computed=computed or UNSET,
        conditions=conditions or UNSET,
    )
    _require_whole_books(spec)
    if spec.delivery.by_event and spec.format == "avro" and topic_schema(spec) is None:
        hint = f"name it in the filter: kind = '{kinds_of(spec)[0]}' AND …"
        detail = "Avro events of one topic are of one kind"
        raise _refused([FieldProblem("/delivery/granularity", detail, hint=hint)])
    return spec


def _require_whole_books(spec: ViewSpec) -> None:
    """Refuse to leave events out where each one changes what those before it said."""
    if kinds_of(spec) != ("book",):
        return
    leaving_out = {
        name: getattr(spec.delivery, name) for name in ("conflate", "sample", "max_rate")
    }
    for member, asked_for in leaving_out.items():
        if asked_for:
            detail = "changes of an order book say nothing without those before them"
            hint = f"subscribe to quotes, or drop {member}"
            raise _refused([FieldProblem(f"/delivery/{member}", detail, hint=hint)])


def named_tables(transformation: Transformation) -> frozenset[str]:
    """The names of the reference tables that a transformation asks for."""
    return frozenset(one.table for one in transformation.enrich or ())


def _with_tables(
    transformation: Transformation, tables: Mapping[str, TableSpec], problems: list[FieldProblem]
) -> Transformation:
    """The transformation with what its tables declare; what is refused becomes a problem."""
    found: list[Enrichment] = []
    for number, asked in enumerate(transformation.enrich or ()):
        try:
            if asked.table not in tables:
                raise UnknownTable(f"there is no reference table {asked.table!r}")
            found.append(resolved(asked, tables[asked.table], references_of(found)))
        except UnknownTable as error:
            hint = "GET /v1/reference-tables lists those that there are, and what they declare"
            pointer = f"/transformation/enrich/{number}"
            problems.append(FieldProblem(pointer, str(error), hint=hint))
    return msgspec.structs.replace(transformation, enrich=tuple(found) or UNSET)


def checked_transformation(
    transformation: Transformation, tables: Mapping[str, TableSpec] = MappingProxyType({})
) -> Transformation:
    """A transformation by itself, in its canonical form.

    Args:
        tables: what the reference tables declare that it names.

    Raises:
        InvalidRequestError: it is refused, as in a subscription.
    """
    nobody = SubscriptionCreate(consumer="-", name="-", transformation=transformation)
    return view_spec(nobody, tables).transformation


def _compiled(
    texts: Mapping[str, str],
    member: str,
    compiler: Callable[[str, References], Expression],
    references: References,
    problems: list[FieldProblem],
) -> dict[str, Expression]:
    """Compile what SQL a transformation has under names; what is refused becomes a problem."""
    trees = {}
    for name, sql in texts.items():
        try:
            trees[name] = compiler(sql, references)
        except FilterError as error:
            pointer = f"/transformation/{member.format(_escaped(name))}"
            problems.append(sql_problem(pointer, error))
    return trees


def require_receiving(consumer: Consumer) -> None:
    """Refuse to give anything to a consumer that is to receive nothing; ConflictError."""
    if consumer.suspended:
        raise ConflictError(f"Consumer {consumer.name!r} is suspended: ask the platform team.")


def require_sets(data: SubscriptionCreate, spec: ViewSpec, known: Collection[str]) -> None:
    """Refuse a filter that names an instrument set which is not there.

    Raises:
        InvalidRequestError: with the place of each such name.
    """
    problems = unknown_sets("/filter", data.filter, sets_of([spec]), known)
    if problems:
        raise InvalidRequestError(f"filter: {problems[0].detail}.", problems)


def unknown_sets(
    pointer: str, sql: str, named: Collection[str], known: Collection[str]
) -> list[FieldProblem]:
    """What is told of the instrument sets that a condition names and that are not there."""
    missing = sorted(set(named) - set(known))
    positions = parse(sql).positions if missing else {}
    problems = []
    for name in missing:
        error = UnknownSet(f"there is no instrument set {name!r}", hint="POST /v1/instrument-sets")
        error.locate(sql, positions[to_sql(InSet(Column("instrument"), name))])
        problems.append(sql_problem(pointer, error))
    return problems


def entitled_spec(
    data: SubscriptionCreate,
    spec: ViewSpec,
    consumer: Consumer,
    policy: Policy,
    entitlements: Entitlements,
    lanes: Collection[str],
    conflate_ms: int | None = None,
) -> Left:
    """What its entitlements and routing rules leave a consumer of the view that it asks for.

    Args:
        lanes: those that functions have which have been seen running.
        conflate_ms: at which intervals it is conflated because of its backlog; None for not at all.

    Raises:
        InvalidRequestError: nothing is left; or it costs too much together; or no function serves
            it; or old events are asked for, and what the consumer may receive is told by sets,
            which may have held something else when those were routed.
    """
    problems = []
    allowed = policy.within(consumer, entitlements)
    left = left_of(spec, allowed, None)
    effective = left.spec
    if receives_nothing(bounded(spec, entitlements.bounds())):
        hint = f"GET /v1/consumers/{data.consumer} shows them; the platform team grants them"
        detail = "nothing that is asked for is within the entitlements of the consumer"
        problems.append(FieldProblem("/filter", detail, hint=hint))
    elif receives_nothing(effective):
        detail = "routing rules let nothing that is asked for go to the consumer"
        hint = "ask the platform team, who sees them with GET /v1/rules"
        problems.append(FieldProblem("/filter", detail, hint=hint))
    elif policy.routed(consumer) != Filter.everything():
        try:
            Filter.from_json(effective.predicate).check_cost()
        except FilterTooComplex as error:
            detail = f"with the routing rules for the consumer {error.message}"
            problems.append(FieldProblem("/filter", detail, hint=error.hint or None))
    if data.start != "latest" and allowed.events.sets:
        detail = "entitlements and rules by instrument sets hold for what comes from now on"
        problems.append(FieldProblem("/start", detail, hint="begin with 'latest'"))
    nobody = unserved(effective.delivery, lanes)
    if nobody:
        pointer = f"/delivery/{nobody.member}"
        problems.append(FieldProblem(pointer, nobody.detail, hint=nobody.hint))
    unfit = refusal(effective, data.on_backlog, lanes)
    if unfit:
        problems.append(unfit)
    if problems:
        raise _refused(problems)
    return left_of(spec, allowed, conflate_ms)


def describe_schema(spec: ViewSpec, *, with_columns: bool) -> SchemaOut:
    """How messages of a view are to be read."""
    format_ = format_of_view(spec.format)
    return SchemaOut(
        format=spec.format,
        media_type=format_.media_type,
        compression=spec.delivery.compression,
        schema_version=SCHEMA_VERSION,
        description=_description(spec),
        columns=_columns(spec) if with_columns else None,
        pulsar_schema=_topic_schema(spec) if with_columns else None,
    )


def _description(spec: ViewSpec) -> str:
    if spec.delivery.together:
        return KINDS_TOGETHER
    told = format_of_view(spec.format).description
    return f"{ONE_EVENT} Of one event: {told}" if spec.delivery.by_event else told


def _topic_schema(spec: ViewSpec) -> PulsarSchemaOut | None:
    schema = topic_schema(spec)
    return None if schema is None else PulsarSchemaOut(schema.type, schema.definition)


def _format_problems(data: SubscriptionCreate) -> Iterator[FieldProblem]:
    try:
        format_ = get_format(data.format)
    except FormatError as error:
        hint = "a format of your own has to be installed here and in the functions' environment"
        yield FieldProblem("/format", str(error), hint=hint)
        return
    if data.delivery.together and data.format != "arrow":
        yield FieldProblem(
            "/delivery/kinds",
            f"{data.format} frames hold events of one kind",
            hint="choose the format arrow, or leave kinds apart",
        )
    if data.delivery.by_event:
        yield from _event_problems(data)
    if data.delivery.conflates and data.delivery.kinds == "together":
        yield FieldProblem(
            "/delivery/kinds",
            "messages of conflated events hold events of one kind",
            hint="leave kinds apart, or drop conflate and max_rate",
        )
    if data.delivery.together and data.transformation.custom:
        yield FieldProblem(
            "/delivery/kinds",
            "custom transformations work on events of one kind",
            hint="leave kinds apart, or drop the custom transformation",
        )
    if format_.renames:
        return
    transformation = data.transformation
    renamed = any(old != new for old, new in transformation.rename.items())
    naming = {
        "rename": renamed,
        "compute": transformation.compute,
        "enrich": transformation.enrich,
        "custom": transformation.custom,
        "rules": transformation.marks,
    }
    for member, asked_for in naming.items():
        if asked_for:
            yield FieldProblem(
                f"/transformation/{member}",
                f"{data.format} frames know columns by numbers, not by names",
                hint=f"drop the {member} or choose another format",
            )


def _event_problems(data: SubscriptionCreate) -> Iterator[FieldProblem]:
    """What does not go with one event a message."""
    try:
        event_format(data.format)
    except FormatError as error:
        hint = "choose json, avro, protobuf, msgpack, csv or fix, or leave granularity out"
        yield FieldProblem("/delivery/granularity", str(error), hint=hint)
    refused = {
        "kinds": (data.delivery.together, "a message with one event has one kind"),
        "max_events": (data.delivery.max_events, "a message holds one event"),
        "compression": (
            data.delivery.compression != "none",
            "a single event does not become smaller; Pulsar compresses many of them together",
        ),
    }
    for member, (asked_for, detail) in refused.items():
        if asked_for:
            hint = f"drop {member} or granularity"
            yield FieldProblem(f"/delivery/{member}", detail, hint=hint)


def _refused(problems: list[FieldProblem]) -> InvalidRequestError:
    text = " ".join(f"{problem.pointer[1:]}: {problem.detail}." for problem in problems)
    return InvalidRequestError(text, problems)


def _escaped(name: str) -> str:
    """A name as a part of a JSON Pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def sql_problem(pointer: str, error: FilterError) -> FieldProblem:
    """What is told of SQL that is refused."""
    return FieldProblem(
        pointer,
        error.message,
        position=error.position,
        line=error.line,
        column=error.column,
        hint=error.hint or None,
    )


def _columns(spec: ViewSpec) -> dict[str, list[ColumnOut]]:
    transformation = spec.transformation
    rename = tuple(sorted(transformation.rename.items()))
    computed = tuple((spec.computed or {}).items())
    columns = _columns_of(
        transformation.select,
        rename,
        computed,
        transformation.references,
        spec.delivery.together,
    )
    added = _told(transformation.added_fields)
    return {kind: told + added for kind, told in columns.items()}


@lru_cache(maxsize=1024)
def _columns_of(
    select: tuple[str, ...] | None,
    rename: tuple[tuple[str, str], ...],
    computed: tuple[tuple[str, Expression], ...],
    references: References,
    together: bool,
) -> dict[str, list[ColumnOut]]:
    transformation = Transformation(select=select, rename=dict(rename))
    added = [declared_field(name, given) for name, given in references]
    schemas = {MIXED: mixed_schema()} if together else SEQUENCED_SCHEMAS
    return {
        kind: _told(
            transformation.schema(
                pa.schema([*schema, *added], metadata=schema.metadata), dict(computed)
            )
        )
        for kind, schema in schemas.items()
    }


def _told(fields: Iterable[pa.Field]) -> list[ColumnOut]:
    return [ColumnOut(field.name, str(field.type), decimal_scale(field)) for field in fields]
