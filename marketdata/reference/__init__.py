"""Reference tables: what is known of instruments, venues and currencies, joined to the events."""

from marketdata.reference.join import Joined, enriched, missing_rules
from marketdata.reference.spec import (
    Enrichment,
    TableRef,
    TableSpec,
    UnknownTable,
    reference_fields,
    references_of,
    resolved,
)
from marketdata.reference.table import (
    ReferenceTable,
    TableContent,
    TableError,
    content_of,
    pieces_of,
)

__all__ = [
    "Enrichment",
    "Joined",
    "ReferenceTable",
    "TableContent",
    "TableError",
    "TableRef",
    "TableSpec",
    "UnknownTable",
    "content_of",
    "enriched",
    "missing_rules",
    "pieces_of",
    "reference_fields",
    "references_of",
    "resolved",
]
