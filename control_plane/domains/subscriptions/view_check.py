"""From a request to the view it asks for: filter and transformation are checked here, once.

Pure: no database, no broker. Everything refused comes back as InvalidRequestError whose problems
name the member of the request, for filters and expressions with the position in the text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache

import msgspec
import pyarrow as pa
from msgspec import UNSET

from control_plane.domains.subscriptions.schemas import ColumnOut, SchemaOut, SubscriptionCreate
from control_plane.errors import FieldProblem, InvalidRequestError
from marketdata.custom import UnknownCustom, resolved
from marketdata.entitlements import Entitlements, bounded, receives_nothing
from marketdata.filters import FilterError, UnknownSet, compile_filter
from marketdata.filters.computed import compile_computed
from marketdata.filters.parse import parse
from marketdata.filters.tree import Column, Expression, InSet, to_sql, walk
from marketdata.formats import FormatError, format_of_view, get_format
from marketdata.mixed import MIXED, mixed_schema
from marketdata.plans import ViewSpec, sets_of
from marketdata.rules import compile_rule
from marketdata.schemas import SCHEMA_VERSION, SEQUENCED_SCHEMAS, decimal_scale
from marketdata.transformations import Transformation, TransformationError

KINDS_TOGETHER = (
    "Each message is one Arrow IPC stream with one record batch of events of several kinds. The"
    " column kind says which, and columns that an event's kind lacks are null. Prices are int64 in"
    " units of 1e-9, sizes int64 in units of 1e-8."
)

MAX_PARTS = 256
"""Most columns, literals and operations of all expressions of a view."""


def view_spec(data: SubscriptionCreate) -> ViewSpec:
    """The view that a request asks for.

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
            problems.append(_sql_problem("/filter", error))
    transformation = data.transformation
    if transformation.custom:
        try:
            custom = resolved(transformation.custom)
            transformation = msgspec.structs.replace(transformation, custom=custom)
        except UnknownCustom as error:
            hint = "it has to be installed here and, before, in the functions' environment"
            problems.append(FieldProblem("/transformation/custom", str(error), hint=hint))
    computed = _compiled(transformation.compute or {}, "compute/{}", compile_computed, problems)
    rules = {name: rule.condition for name, rule in (transformation.rules or {}).items()}
    conditions = _compiled(rules, "rules/{}/condition", compile_rule, problems)
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
    return ViewSpec(
        filter=canonical,
        predicate=predicate,
        transformation=transformation.canonical(),
        format=data.format,
        delivery=data.delivery.canonical(),
        computed=computed or UNSET,
        conditions=conditions or UNSET,
    )


def checked_transformation(transformation: Transformation) -> Transformation:
    """A transformation by itself, in its canonical form.

    Raises:
        InvalidRequestError: it is refused, as in a subscription.
    """
    nobody = SubscriptionCreate(consumer="-", name="-", transformation=transformation)
    return view_spec(nobody).transformation


def _compiled(
    texts: Mapping[str, str],
    member: str,
    compiler: Callable[[str], Expression],
    problems: list[FieldProblem],
) -> dict[str, Expression]:
    """Compile what SQL a transformation has under names; what is refused becomes a problem."""
    trees = {}
    for name, sql in texts.items():
        try:
            trees[name] = compiler(sql)
        except FilterError as error:
            pointer = f"/transformation/{member.format(_escaped(name))}"
            problems.append(_sql_problem(pointer, error))
    return trees


def require_sets(data: SubscriptionCreate, spec: ViewSpec, known: Collection[str]) -> None:
    """Refuse a filter that names an instrument set which is not there.

    Raises:
        InvalidRequestError: with the place of each such name.
    """
    missing = sorted(sets_of([spec]) - set(known))
    if not missing:
        return
    positions = parse(data.filter).positions
    problems = []
    for name in missing:
        error = UnknownSet(f"there is no instrument set {name!r}", hint="POST /v1/instrument-sets")
        error.locate(data.filter, positions[to_sql(InSet(Column("instrument"), name))])
        problems.append(_sql_problem("/filter", error))
    raise InvalidRequestError(f"filter: {problems[0].detail}.", problems)


def entitled_spec(data: SubscriptionCreate, spec: ViewSpec, entitlements: Entitlements) -> ViewSpec:
    """What the entitlements of a consumer leave of the view that its request asks for.

    Raises:
        InvalidRequestError: nothing is left; or old events are asked for, and what the consumer may
            receive is told by sets, which may have held something else when those were routed.
    """
    problems = []
    effective = bounded(spec, entitlements)
    if receives_nothing(effective):
        hint = f"GET /v1/consumers/{data.consumer} shows them; the platform team grants them"
        detail = "nothing that is asked for is within the entitlements of the consumer"
        problems.append(FieldProblem("/filter", detail, hint=hint))
    if data.start == "earliest" and entitlements.instrument_sets:
        detail = "entitlements by instrument sets hold for what comes from now on"
        problems.append(FieldProblem("/start", detail, hint="begin with 'latest'"))
    if problems:
        raise _refused(problems)
    return effective


def describe_schema(spec: ViewSpec, *, with_columns: bool) -> SchemaOut:
    """How messages of a view are to be read."""
    format_ = format_of_view(spec.format)
    return SchemaOut(
        format=spec.format,
        media_type=format_.media_type,
        compression=spec.delivery.compression,
        schema_version=SCHEMA_VERSION,
        description=KINDS_TOGETHER if spec.delivery.together else format_.description,
        columns=_columns(spec) if with_columns else None,
    )


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


def _refused(problems: list[FieldProblem]) -> InvalidRequestError:
    text = " ".join(f"{problem.pointer[1:]}: {problem.detail}." for problem in problems)
    return InvalidRequestError(text, problems)


def _escaped(name: str) -> str:
    """A name as a part of a JSON Pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def _sql_problem(pointer: str, error: FilterError) -> FieldProblem:
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
    columns = _columns_of(transformation.select, rename, computed, spec.delivery.together)
    added = _told(transformation.added_fields)
    return {kind: told + added for kind, told in columns.items()}


@lru_cache(maxsize=1024)
def _columns_of(
    select: tuple[str, ...] | None,
    rename: tuple[tuple[str, str], ...],
    computed: tuple[tuple[str, Expression], ...],
    together: bool,
) -> dict[str, list[ColumnOut]]:
    transformation = Transformation(select=select, rename=dict(rename))
    schemas = {MIXED: mixed_schema()} if together else SEQUENCED_SCHEMAS
    return {
        kind: _told(transformation.schema(schema, dict(computed)))
        for kind, schema in schemas.items()
    }


def _told(fields: Iterable[pa.Field]) -> list[ColumnOut]:
    return [ColumnOut(field.name, str(field.type), decimal_scale(field)) for field in fields]
