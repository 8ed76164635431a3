"""What the events of a view look like: its schemas by kind, and that of its topic at the broker."""

import pyarrow as pa
from msgspec import UNSET

from marketdata.filters import Filter
from marketdata.formats.pulsar_schemas import PulsarSchema, pulsar_schema
from marketdata.plans import ViewSpec
from marketdata.schemas import KINDS, SEQUENCED_SCHEMAS


def kinds_of(spec: ViewSpec) -> tuple[str, ...]:
    """The kinds of which a view can hold events; none for a view that holds nothing."""
    return KINDS if spec.predicate is None else Filter.from_json(spec.predicate).kinds


def schemas_of(spec: ViewSpec) -> list[pa.Schema]:
    """The schema of delivered events of each kind of a view that takes kinds apart."""
    computed = {} if spec.computed is UNSET else spec.computed
    return [
        spec.transformation.schema(SEQUENCED_SCHEMAS[kind], computed) for kind in kinds_of(spec)
    ]


def topic_schema(spec: ViewSpec) -> PulsarSchema | None:
    """The Pulsar schema of a view's topic; None for frames, and where there is none."""
    return pulsar_schema(spec.format, schemas_of(spec)) if spec.delivery.by_event else None
