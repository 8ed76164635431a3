"""A run made up by hand: events accepted, a log, views, all in order until a test breaks it.

Written with plain Python over rows, so that a mistake in the columns of the checker shows.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from marketdata.schemas import INGEST_SCHEMAS, SEQUENCED_SCHEMAS
from scripts.verification.checker import check
from scripts.verification.expectations import ViewExpectation, everything, numbers_of
from scripts.verification.recording import History
from scripts.verification.report import Report

Row = dict[str, Any]

ALL = ViewExpectation("all", everything)
CHEAP = ViewExpectation(
    "cheap",
    lambda batch, _kind: numbers_of(batch, "price")[0] < 150,
    select=("instrument", "sequence", "price", "side"),
    rename={"price": "px"},
)
FOLLOWING = pa.schema(
    [("instrument", pa.utf8()), ("sequence", pa.uint64()), ("epoch", pa.uint32())]
)


@dataclass
class Frame:
    """A delivered frame before it is recorded."""

    partition: int
    rows: list[Row]
    properties: dict[str, str]
    message_id: int


@dataclass
class Control:
    """A control frame of the log, standing before the frame of this number in `World.log`."""

    before: int
    partition: int
    properties: dict[str, str]
    following: list[tuple[str, int, int]] = field(default_factory=list)
    """Instrument, sequence and epoch of what comes next."""


@dataclass
class World:
    """What happened, as lists that a test may change before `report`.

    `run` sets the ids of its messages apart from those of another world.
    """

    run: int = 0
    controls: list[Control] = field(default_factory=list)
    accepted: list[tuple[int, list[Row]]] = field(default_factory=list)
    log: list[tuple[int, list[Row]]] = field(default_factory=list)
    views: dict[str, list[Frame]] = field(default_factory=dict)
    expectations: tuple[ViewExpectation, ...] = (ALL, CHEAP)

    def history(self, *, after: History | None = None) -> History:
        history = History(self.expectations, after=after)
        for partition, rows in self.accepted:
            history.accepted("publisher", partition, batch_of(rows, INGEST_SCHEMAS["trade"]))
        for number, (partition, rows) in enumerate(self.log):
            self._controls(history, number)
            history.sequenced(
                partition, batch_of(rows, SEQUENCED_SCHEMAS["trade"]), message_id=(self.run, number)
            )
        self._controls(history, len(self.log))
        for view in self.expectations:
            for frame in self.views[view.name]:
                if frame.properties["kind"] != "trade":
                    history.view_control(
                        view.name,
                        frame.partition,
                        frame.properties,
                        message_id=(self.run, frame.message_id),
                    )
                    continue
                names = view.columns("trade")
                schema = pa.schema(
                    [SEQUENCED_SCHEMAS["trade"].field(name) for name in names]
                    + [pa.field(name, pa.int64()) for name in view.computed]
                )
                history.delivered(
                    view.name,
                    frame.partition,
                    batch_of(frame.rows, schema),
                    frame.properties,
                    message_id=(self.run, frame.message_id),
                    received_ns=5_000,
                )
        return history

    def _controls(self, history: History, before: int) -> None:
        for number, control in enumerate(self.controls):
            if control.before == before:
                history.log_control(
                    control.partition,
                    pa.RecordBatch.from_pylist(
                        [
                            {"instrument": name, "sequence": sequence, "epoch": epoch}
                            for name, sequence, epoch in control.following
                        ],
                        schema=FOLLOWING,
                    ),
                    control.properties,
                    message_id=(self.run, f"control-{number}"),
                )

    def report(self, **options: Any) -> Report:
        return check(self.history(), **options)


def clean_world() -> World:
    """Two partitions, five instruments, 240 trades in frames of four; all as it should be."""
    world = World(views={"all": [], "cheap": []})
    instruments = {0: ["A", "B", "C"], 1: ["X", "Y"]}
    counts: Counter[str] = Counter()
    delivered: Counter[tuple[str, int]] = Counter()
    for turn in range(30):
        for partition, names in instruments.items():
            rows = []
            for step in range(4):
                name = names[(turn * 5 + step * step) % len(names)]
                counts[name] += 1
                rows.append(trade(name, counts[name], price=100 + (turn * 7 + step * 31) % 100))
            world.accepted.append((partition, rows))
            sequenced = [row | {"sequence": row["source_sequence"]} for row in rows]
            world.log.append((partition, sequenced))
            cheap = [row for row in sequenced if row["price"] < 150]
            for view, kept in (("all", sequenced), ("cheap", cheap)):
                if kept:
                    world.views[view].append(
                        Frame(
                            partition,
                            [dict(row) for row in kept],
                            {
                                "kind": "trade",
                                "count": str(len(kept)),
                                "plan": str(3 + turn // 10),
                                "delivery_sequence": str(delivered[view, partition] + 1),
                                "delivery_epoch": "0",
                            },
                            message_id=turn,
                        )
                    )
                    delivered[view, partition] += len(kept)
    return world


def trade(instrument: str, number: int, *, price: int) -> Row:
    return {
        "instrument": instrument,
        "venue": "XNAS",
        "source": "made-up",
        "source_sequence": number,
        "ts_event": 1_000 + number,
        "ts_publish": 2_000 + number,
        "sequence": number,
        "epoch": 1,
        "ts_sequenced": 3_000,
        "quality": None,
        "quality_flags": None,
        "region": None,
        "price": price,
        "size": 100,
        "side": ["buy", "sell", None][number % 3],
        "trade_id": None,
        "conditions": None,
    }


def batch_of(rows: list[Row], schema: pa.Schema) -> pa.RecordBatch:
    columns = []
    for column in schema:
        values = [row[column.name] for row in rows]
        if pa.types.is_dictionary(column.type):
            columns.append(pa.array(values, pa.string()).dictionary_encode().cast(column.type))
        else:
            columns.append(pa.array(values, column.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def remove(frames: list[Any], which: Callable[[Row], bool]) -> None:
    """Remove rows wherever they are in a list of frames of `World.log` or `World.accepted`."""
    for number, (partition, rows) in enumerate(frames):
        frames[number] = (partition, [row for row in rows if not which(row)])
