"""The column mapping of a tabular file: which of its columns is which of the contract's.

A mapping is written in YAML or JSON:

    kind: trade
    columns:                    # ours: theirs; a column of the same name needs no entry
      instrument: symbol
      ts_event: time
      price: px
      size: qty
    constants: {venue: XNAS, source: my-feed, region: us}
    time_unit: ms               # of numeric times: s, ms, us, ns; text is ISO 8601
    timezone: America/New_York  # of times that carry none; UTC when left out
    price_unit: "0.01"          # prices count cents; a power of ten, 1 when left out
    size_unit: "1"
    delimiter: ";"              # CSV; a comma when left out
    order: check                # check, sort or file: see `ORDERS`
"""

from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from marketdata.schemas import INGEST_SCHEMAS, KINDS, SYMBOL
from marketdata.sources.columns import TIME_UNITS, power_of_ten
from marketdata.sources.errors import ColumnError, SourceError

ORDERS: Final = {
    "check": "the rows must be in event-time order; the first that is not is an error",
    "sort": "sort by event time: the whole file is held in memory",
    "file": "keep the order of the file, whatever it is",
}
"""What to do about rows out of event-time order."""

REQUIRED: Final = ("instrument", "venue", "ts_event")
"""Columns that a mapping must provide: from the file or as a constant."""


class ColumnMapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which columns of a file make an event of `kind`; the module says what each part means.

    Raises:
        SourceError: when made with an unknown kind, column, unit or order.
    """

    kind: str
    columns: dict[str, str] = {}
    constants: dict[str, str] = {}
    time_unit: str | None = None
    timezone: str = "UTC"
    price_unit: str = "1"
    size_unit: str = "1"
    delimiter: str = ","
    order: str = "check"

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, KINDS)
        _one_of("order", self.order, tuple(ORDERS))
        self._check_names()
        if self.time_unit is not None:
            _one_of("time_unit", self.time_unit, tuple(TIME_UNITS))
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise SourceError(
                f"mapping: timezone {self.timezone!r} is unknown here; names are like Europe/Berlin"
            ) from error
        for unit in (self.price_unit, self.size_unit):
            try:
                power_of_ten(unit)
            except ColumnError as error:
                raise SourceError(f"mapping: {error}") from error
        if len(self.delimiter) != 1:
            raise SourceError(f"mapping: delimiter {self.delimiter!r} is not one character")

    def _check_names(self) -> None:
        schema = INGEST_SCHEMAS[self.kind]
        for name in (*self.columns, *self.constants):
            if name not in schema.names:
                raise SourceError(
                    f"mapping: a {self.kind} has no column {name!r}; it has:"
                    f" {', '.join(schema.names)}"
                )
        for name in self.constants:
            if schema.field(name).type != SYMBOL:
                allowed = ", ".join(f.name for f in schema if f.type == SYMBOL)
                raise SourceError(
                    f"mapping: column {name!r} cannot be a constant; these can: {allowed}"
                )
            if name in self.columns:
                raise SourceError(f"mapping: column {name!r} is both mapped and constant")


def load_mapping(path: str | Path) -> dict[str, object]:
    """The parts of a mapping file, to be completed and made a `ColumnMapping`.

    Raises:
        SourceError: the file cannot be read or is no YAML or JSON object.
    """
    try:
        data = Path(path).read_bytes()
        loaded = msgspec.json.decode(data) if _is_json(path) else _decode_yaml(path, data)
    except (OSError, msgspec.DecodeError) as error:
        raise SourceError(f"{path}: mapping cannot be read: {error}") from error
    if not isinstance(loaded, dict):
        raise SourceError(f"{path}: a mapping is an object with `kind` and `columns`")
    return loaded


def make_mapping(parts: dict[str, object], where: str = "mapping") -> ColumnMapping:
    """A checked mapping from loose parts.

    Raises:
        SourceError: naming the part that is missing, unknown or of the wrong type.
    """
    if "kind" not in parts:
        raise SourceError(f"{where}: say the kind of event: {', '.join(KINDS)}")
    try:
        return msgspec.convert(parts, ColumnMapping, strict=False)
    except msgspec.ValidationError as error:
        raise SourceError(f"{where}: {error}") from error


def _is_json(path: str | Path) -> bool:
    return Path(path).suffix == ".json"


def _decode_yaml(path: str | Path, data: bytes) -> object:
    try:
        return msgspec.yaml.decode(data)
    except ImportError as error:
        raise SourceError(
            f"{path}: YAML needs the package pyyaml; install it or write the mapping as JSON"
        ) from error


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SourceError(f"mapping: {name} is {value!r}; it must be one of {', '.join(allowed)}")
