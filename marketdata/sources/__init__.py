"""Where market data comes from: readers and generators of batches for the publisher.

Every source is an iterable of `pa.RecordBatch` with an ingest schema of `marketdata.schemas`:
one kind a batch, any instruments, in the order in which the events are to be published (event
time, unless a source says otherwise). `source_sequence` numbers the events of each instrument
from 1 within one source name. `ts_publish` holds
`ts_event` until a publisher stamps it.

    samples     real daily and hourly bars that registry packages ship
    dbn         Databento DBN files: trades, mbp-1, ohlcv
    tabular     Parquet and CSV files with a column mapping
    files       any of the file formats, by name or by content
    synthetic   seeded synthetic ticks for load and tests

Prices and sizes keep every digit of the input: decimal text goes to fixed point through Arrow's
decimals, never through floats. What cannot be kept exactly is refused with `SourceError`.
"""

from marketdata.sources.errors import SourceError

__all__ = ["SourceError"]
