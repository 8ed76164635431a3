"""A custom transformation: how large a trade is, in bands of its notional; small ones are left out.

`pip install` this folder into the environment of the functions and into the control plane's, and
subscriptions can say `"transformation": {"custom": {"name": "notional-bands"}}`.
"""

from typing import ClassVar

import numpy as np
import pyarrow as pa

LEAST = (10_000, 100_000, 1_000_000)
"""Where the bands begin, in units of the currency."""

NAMES = pa.array(["retail", "block", "institution"])


class NotionalBands:
    """Trades of a notional of at least 10,000 with the column `band`; other kinds have none."""

    name = "notional-bands"
    description = "Adds `band` to trades (retail, block, institution); leaves small ones out."
    columns: ClassVar = {"band": "text"}
    max_rows = 16_384

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The larger trades and their bands; columns at a time, never event by event."""
        keys = batch.select(["instrument", "epoch", "sequence"])
        if "price" not in batch.schema.names or "size" not in batch.schema.names:
            return keys.append_column("band", pa.nulls(batch.num_rows, pa.utf8()))
        price, size = (
            batch.column(name).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            for name in ("price", "size")
        )
        # Null is NaN here, and NaN is in no band.
        bands = np.searchsorted(LEAST, np.nan_to_num(price * size * 1e-17), side="right")
        large = np.flatnonzero(bands)
        return keys.take(pa.array(large)).append_column(
            "band", NAMES.take(pa.array(bands[large] - 1))
        )
