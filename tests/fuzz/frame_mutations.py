"""Seeds and mutations for the frame fuzzer: valid frames of every kind, bent where it may hurt.

A mutation knows how a stream is built: messages, each with a length, metadata (a flatbuffer) and a
body. Flipping random bits would mostly be refused by the first length that no longer fits.
"""

import random
from struct import pack_into

import pyarrow as pa

from marketdata.control_frames import NEXT_SEQUENCES
from marketdata.frames import encode_frame
from marketdata.mixed import mixed_batch
from marketdata.schemas import INGEST_SCHEMAS, KINDS, SEQUENCED_SCHEMAS, is_symbol

END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
COMPRESSIONS = (None, "lz4", "zstd")
INTERESTING = (
    0, 1, 2, 7, 8, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 32,
    1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
)  # fmt: skip


def plausible(schema: pa.Schema, rows: int) -> pa.RecordBatch:
    """A valid batch of the schema, with nulls where they may be."""
    columns = []
    for field in schema:
        if is_symbol(field) or pa.types.is_string(field.type):
            values = [f"{field.name}-{row % 3}" for row in range(rows)]
        elif pa.types.is_float32(field.type):
            values = [(row % 5) / 4 for row in range(rows)]
        else:
            values = [row + 1 for row in range(rows)]
        if field.nullable:
            values[::4] = [None] * len(values[::4])
        if is_symbol(field):
            columns.append(pa.array(values, pa.utf8()).dictionary_encode().cast(field.type))
        elif pa.types.is_timestamp(field.type):
            columns.append(pa.array(values, pa.int64()).view(field.type))
        else:
            columns.append(pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def plausible_mixed(kinds: tuple[str, ...], rows: int, *, ingest: bool) -> pa.RecordBatch:
    """A valid batch of several kinds, so many rows of each, one kind after the other."""
    schemas = INGEST_SCHEMAS if ingest else SEQUENCED_SCHEMAS
    return mixed_batch([(kind, plausible(schemas[kind], rows)) for kind in kinds])


def seeds() -> list[bytes]:
    """Valid frames: every kind and several, both forms, every compression, one row and some.

    Heartbeats, which are no frames of events, come last.
    """
    schemas = [schemas[kind] for schemas in (INGEST_SCHEMAS, SEQUENCED_SCHEMAS) for kind in KINDS]
    mixed = [
        plausible_mixed(kinds, rows, ingest=ingest)
        for ingest in (True, False)
        for kinds in (KINDS, ("trade", "quote"))
        for rows in (1, 20)
    ]
    return [
        encode_frame(batch, compression=compression).to_pybytes()
        for batches in (
            [plausible(schema, rows) for schema in schemas for rows in (1, 50)],
            mixed,
            [plausible(NEXT_SEQUENCES, rows) for rows in (1, 50)],
        )
        for batch in batches
        for compression in COMPRESSIONS
    ]


def messages(data: bytes) -> list[bytes]:
    """The messages of a stream as far as they can be told apart; what is left is the last one."""
    found = []
    source = pa.BufferReader(data)
    start = 0
    try:
        for _ in pa.ipc.MessageReader.open_stream(source):
            found.append(data[start : source.tell()])
            start = source.tell()
    except (pa.ArrowException, OSError, EOFError):
        found.append(data[start:])
    return found


def with_number(data: bytes, dice: random.Random) -> bytes:
    """An interesting number in place of an aligned one: lengths, offsets and sizes are such."""
    bent = bytearray(data)
    width = dice.choice((1, 2, 4, 8))
    if len(bent) >= width:
        place = dice.randrange(0, len(bent) - width + 1, width)
        value = dice.choice((*INTERESTING, len(data), dice.randrange(256)))
        pack_into(
            "<" + {1: "B", 2: "H", 4: "I", 8: "Q"}[width], bent, place, value % (1 << 8 * width)
        )
    return bytes(bent)


def with_messages_moved(data: bytes, dice: random.Random) -> bytes:
    """Messages left out, repeated, or in another order."""
    parts = messages(data)
    if not parts:
        return data
    place = dice.randrange(len(parts))
    action = dice.randrange(3)
    if action == 0:
        del parts[place]
    elif action == 1:
        parts[place:place] = [parts[place]] * dice.randrange(1, 4)
    else:
        dice.shuffle(parts)
    return b"".join(parts) + END_OF_STREAM


def with_foreign_message(data: bytes, dice: random.Random, frames: list[bytes]) -> bytes:
    """A message of another frame among those of this one, or in place of one."""
    parts, others = messages(data), messages(dice.choice(frames))
    place = dice.randrange(len(parts) + 1)
    parts[place : place + dice.randrange(2)] = [dice.choice(others)]
    return b"".join(parts) + END_OF_STREAM


def cut_or_extended(data: bytes, dice: random.Random) -> bytes:
    """Cut somewhere, or with bytes behind its end."""
    if dice.random() < 0.5:
        return data[: dice.randrange(len(data) + 1)]
    return data + dice.randbytes(dice.randrange(1, 20))


def with_bits_flipped(data: bytes, dice: random.Random) -> bytes:
    """A few bits turned over, anywhere."""
    bent = bytearray(data)
    for _ in range(dice.choice((1, 2, 8)) if bent else 0):
        bent[dice.randrange(len(bent))] ^= 1 << dice.randrange(8)
    return bytes(bent)


class Mutator:
    """Picks among the mutations."""

    def __init__(self) -> None:
        self._frames = seeds()

    def __call__(self, data: bytes, max_size: int, seed: int) -> bytes:
        """The next input; the same seed gives the same one, as libFuzzer wants it."""
        dice = random.Random(seed)
        if len(data) < 16 or dice.random() < 0.05:
            data = dice.choice(self._frames)
        for _ in range(dice.choice((1, 1, 1, 2, 4))):
            action = dice.randrange(8)
            if action < 4:
                data = with_number(data, dice)
            elif action == 4:
                data = with_messages_moved(data, dice)
            elif action == 5:
                data = with_foreign_message(data, dice, self._frames)
            elif action == 6:
                data = cut_or_extended(data, dice)
            else:
                data = with_bits_flipped(data, dice)
        return data[:max_size]
