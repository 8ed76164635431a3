"""Plans: the immutable, numbered, digested compilation of every active subscription.

A plan lists the distinct *views*; subscriptions with equal filter, transformation, format and
delivery share one. A view is named by the digest of its canonical form, so the same view has the
same name and topic in every plan, and what it makes of a frame never depends on the plan's number.
Plans travel as JSON on the compacted topic `control/plans` under the key `PLAN_KEY`.
"""

import hashlib
from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

from marketdata.topics import delivery_topic
from marketdata.transformations import Transformation

PLAN_KEY: Final = "plan"

FormatName = Literal["arrow", "json"]
Compression = Literal["none", "lz4", "zstd"]


class Delivery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a view's frames are written."""

    compression: Compression = "none"


class ViewSpec(msgspec.Struct, frozen=True):
    """What a view is made of.

    Attributes:
        filter: canonical SQL of the filter, "" for everything.
        predicate: the filter's tree as JSON (`Filter.to_json`), None for everything.
    """

    filter: str = ""
    predicate: Any = None
    transformation: Transformation = Transformation()
    format: FormatName = "arrow"
    delivery: Delivery = Delivery()


class View(ViewSpec, frozen=True):
    """A view: its parts with its name and its topic."""

    id: str = ""
    topic: str = ""


class Plan(msgspec.Struct, frozen=True):
    """What the functions execute.

    Attributes:
        number: rises by one with every plan; 0 is the empty plan before the first.
        digest: SHA-256 (hex) of the views' canonical JSON.
        created_at_ns: nanoseconds since the epoch, UTC.
        correlation_id: of the request that caused the plan.
        views: distinct views, ordered by id.
    """

    number: int
    digest: str
    created_at_ns: int
    correlation_id: str
    views: tuple[View, ...]


_canonical: Final = msgspec.json.Encoder(order="deterministic")
_decode_plan: Final = msgspec.json.Decoder(Plan)


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
        id=view_id,
        topic=delivery_topic(view_id),
    )


def compile_plan(
    number: int, specs: Iterable[ViewSpec], *, created_at_ns: int, correlation_id: str = ""
) -> Plan:
    """Compile the specs of all active subscriptions into a plan; equal specs give one view."""
    by_id = {view.id: view for view in map(view_of, specs)}
    views = tuple(by_id[view_id] for view_id in sorted(by_id))
    digest = hashlib.sha256(_canonical.encode(views)).hexdigest()
    return Plan(number, digest, created_at_ns, correlation_id, views)


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
