"""What the demo subscribes to: each subscription in SQL, and once more in NumPy.

The SQL goes to the control plane and runs in the functions. The NumPy beside it is written by hand
over the data set and says what must arrive; neither is made from the other.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from scripts.demonstration.data import DataSet
from scripts.verification.expectations import (
    Mask,
    ViewExpectation,
    everything,
    numbers_of,
    of_instruments,
    symbols_of,
)

PRICE_UNIT = 10**9
SIZE_UNIT = 10**8


@dataclass(frozen=True, slots=True)
class DemoSubscription:
    """A subscription and what must come of it."""

    filter: str
    expectation: ViewExpectation
    compute: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name at the API and in the table."""
        return self.expectation.name

    def request(self) -> dict[str, Any]:
        """What `POST /v1/subscriptions` is sent, but for consumer and name."""
        view = self.expectation
        return {
            "filter": self.filter,
            "format": view.format,
            "delivery": {"granularity": "event"} if view.by_event else {},
            "transformation": {
                "select": view.select,
                "rename": view.rename,
                "compute": self.compute,
            },
        }


def subscriptions_for(data: DataSet) -> list[DemoSubscription]:
    """Five different subscriptions: by instrument, by content, as JSON, transformed, and all."""
    return [
        _by_instrument(data),
        *(_of_bars() if data.kinds == {"bar"} else tick_subscriptions()),
        DemoSubscription("", ViewExpectation("everything", everything)),
    ]


def _by_instrument(data: DataSet) -> DemoSubscription:
    names = sorted(data.instruments[:2])
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in names)
    expectation = ViewExpectation("by-instrument", of_instruments(*names))
    return DemoSubscription(f"instrument IN ({quoted})", expectation)


def _of_bars() -> list[DemoSubscription]:
    return [
        DemoSubscription(
            "close > open * 1.02 AND volume > 10000000",
            ViewExpectation("strong-days", _strong),
        ),
        DemoSubscription(
            "region = 'us' AND high - low > 5",
            ViewExpectation("wide-days-json", _wide, format="json"),
        ),
        DemoSubscription(
            "venue <> 'XNAS'",
            ViewExpectation(
                "closes-off-nasdaq",
                _off_nasdaq,
                select=("instrument", "sequence", "ts_event", "close", "volume"),
                rename={"ts_event": "opened_at", "close": "price"},
                computed={"middle": _half_sum("high", "low"), "traded": _traded},
            ),
            {"middle": "(high + low) / 2", "traded": "round(close * volume, 2)"},
        ),
    ]


def tick_subscriptions() -> list[DemoSubscription]:
    """By content, as JSON and transformed, of quotes and trades."""
    return [
        DemoSubscription(
            "side = 'buy' AND size >= 100", ViewExpectation("large-buys", _large_buys)
        ),
        DemoSubscription(
            "kind = 'trade' AND price > 100",
            ViewExpectation("trades-json", _trades_above_100, format="json"),
        ),
        DemoSubscription(
            "ask_price - bid_price <= 0.02",
            ViewExpectation(
                "tight-quotes",
                _tight,
                select=("instrument", "sequence", "ts_event", "bid_price", "ask_price"),
                rename={"bid_price": "bid", "ask_price": "ask"},
                computed={"mid": _half_sum("bid_price", "ask_price")},
            ),
            {"mid": "(bid_price + ask_price) / 2"},
        ),
    ]


def single_event_subscriptions() -> list[DemoSubscription]:
    """Trades, one a message, as JSON and as Avro."""
    formats: tuple[Literal["json"], Literal["avro"]] = ("json", "avro")
    return [
        DemoSubscription(
            "kind = 'trade' AND side = 'buy' AND size >= 200",
            ViewExpectation(f"single-{name}", _larger_buys, format=name, by_event=True),
        )
        for name in formats
    ]


def _strong(batch: pa.RecordBatch, _kind: str) -> Mask:
    (close, a), (open_, b) = numbers_of(batch, "close"), numbers_of(batch, "open")
    volume, c = numbers_of(batch, "volume")
    strong: Mask = (close * 100 > open_ * 102) & (volume > 10_000_000 * SIZE_UNIT)
    return strong & a & b & c


def _wide(batch: pa.RecordBatch, _kind: str) -> Mask:
    (high, a), (low, b) = numbers_of(batch, "high"), numbers_of(batch, "low")
    wide: Mask = (high - low > 5 * PRICE_UNIT) & a & b
    return wide & (symbols_of(batch, "region") == "us")


def _off_nasdaq(batch: pa.RecordBatch, _kind: str) -> Mask:
    off: Mask = symbols_of(batch, "venue") != "XNAS"
    return off


def _half_sum(one: str, other: str) -> Callable[[pa.RecordBatch, str], pa.Array]:
    """Half of the sum of two prices, in price units; of what lies between two the even one."""

    def values(batch: pa.RecordBatch, _kind: str) -> pa.Array:
        (x, a), (y, b) = numbers_of(batch, one), numbers_of(batch, other)
        half, odd = np.divmod(x + y, 2)
        return pa.array(half + (odd & half & 1), mask=~(a & b))

    return values


def _traded(batch: pa.RecordBatch, _kind: str) -> pa.Array:
    """Close times volume in units of 0.01, of what lies between two the even one."""
    (close, a), (volume, b) = numbers_of(batch, "close"), numbers_of(batch, "volume")
    unit = PRICE_UNIT * SIZE_UNIT // 100
    exact = [price * size for price, size in zip(close.tolist(), volume.tolist(), strict=True)]
    cents = [round(Fraction(product, unit)) for product in exact]
    return pa.array(cents, pa.int64(), mask=~(a & b))


def _large_buys(batch: pa.RecordBatch, _kind: str) -> Mask:
    size, known = numbers_of(batch, "size")
    if batch.schema.get_field_index("side") < 0:
        return np.zeros(batch.num_rows, dtype=bool)
    buys: Mask = symbols_of(batch, "side") == "buy"
    return buys & known & (size >= 100 * SIZE_UNIT)


def _larger_buys(batch: pa.RecordBatch, kind: str) -> Mask:
    size, _ = numbers_of(batch, "size")
    if kind != "trade":
        return np.zeros(batch.num_rows, dtype=bool)
    larger: Mask = _large_buys(batch, kind) & (size >= 200 * SIZE_UNIT)
    return larger


def _trades_above_100(batch: pa.RecordBatch, kind: str) -> Mask:
    price, known = numbers_of(batch, "price")
    above: Mask = known & (price > 100 * PRICE_UNIT)
    return above if kind == "trade" else np.zeros(batch.num_rows, dtype=bool)


def _tight(batch: pa.RecordBatch, _kind: str) -> Mask:
    (ask, a), (bid, b) = numbers_of(batch, "ask_price"), numbers_of(batch, "bid_price")
    tight: Mask = (ask - bid) * 50 <= PRICE_UNIT
    return tight & a & b
