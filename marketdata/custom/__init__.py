"""Custom transformations: functions of installed packages that give events further columns.

    [project.entry-points."dds.transformations"]
    bands = "bands:Bands"

A subscription names one (`"transformation": {"custom": {"name": "bands"}}`). It is given the events
of a view as they were sequenced, a batch of one kind at a time, and gives a batch with
`instrument`, `epoch` and `sequence` of the events that it keeps, in their order, and the columns
that it declares. It may leave events out, and can neither add nor reorder nor change any: the other
columns of the view are taken from the events themselves.
"""

from marketdata.custom.answer import Answer, CustomFailed, call
from marketdata.custom.registry import (
    GROUP,
    CustomTransformation,
    UnknownCustom,
    custom_transformations,
    resolved,
)
from marketdata.custom.spec import Custom, custom_fields

__all__ = [
    "GROUP",
    "Answer",
    "Custom",
    "CustomFailed",
    "CustomTransformation",
    "UnknownCustom",
    "call",
    "custom_fields",
    "custom_transformations",
    "resolved",
]
