"""Pieces of text lines, one string per row, written column-wise and joined once.

A line of NDJSON is a sequence of pieces: text that is the same on every row, text of equal width on
every row, text chosen by a code, and text of any kind. Joining costs per piece and row, so
neighbours are merged first wherever that is cheaper than joining: constants disappear into their
neighbours, fixed widths stand side by side in one matrix, small choices multiply into one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from marketdata.arrays import run_of

_MOST_CHOICES: Final = 512
"""Largest product of two choices that is still written out once per combination."""

_MOST_REWRITTEN: Final = 1024
"""Most texts of a choice into which a neighbouring constant is written."""


@dataclass(slots=True, frozen=True)
class Constant:
    """The same text on every row."""

    text: bytes


@dataclass(slots=True, frozen=True)
class Fixed:
    """Texts of one width: uint8 matrix of rows by bytes."""

    matrix: npt.NDArray[np.uint8]


@dataclass(slots=True, frozen=True)
class Choice:
    """One of a few texts: its index (any integer type) per row."""

    codes: npt.NDArray[np.integer]
    texts: pa.BinaryArray


@dataclass(slots=True, frozen=True)
class Strings:
    """Any text per row."""

    texts: pa.BinaryArray


Piece = Constant | Fixed | Choice | Strings


def join_pieces(pieces: Iterable[Piece], rows: int) -> bytes:
    """All rows' pieces in order, row after row, as one run of bytes."""
    joined: bytes = run_of(join_rows(pieces, rows)).to_pybytes()
    return joined


def join_rows(pieces: Iterable[Piece], rows: int) -> pa.BinaryArray:
    """One value per row: its pieces in order."""
    merged = [_merge(run, rows) for run in _runs(pieces)]
    if all(isinstance(piece, Constant) for piece in merged):
        text = b"".join(piece.text for piece in merged if isinstance(piece, Constant))
        return pa.repeat(pa.scalar(text, pa.binary()), rows)
    return pc.binary_join_element_wise(
        *(_scalar(piece) if isinstance(piece, Constant) else as_array(piece) for piece in merged),
        b"",
    )


def binary(texts: Iterable[bytes]) -> pa.BinaryArray:
    """Texts as an Arrow array."""
    return pa.array(texts, pa.binary())


def _runs(pieces: Iterable[Piece]) -> list[list[Piece]]:
    """Neighbours that are written as one piece: of constants, and of fixed widths or of choices."""
    runs: list[list[Piece]] = []
    kind: type[Piece] = Strings
    choices = 1
    for piece in pieces:
        grows = kind is not Strings and isinstance(piece, Constant | kind)
        if kind is Constant and not isinstance(piece, Strings):
            grows = True
        if isinstance(piece, Choice):
            many = len(piece.texts)
            grows = grows and choices * many <= (_MOST_CHOICES if choices > 1 else _MOST_REWRITTEN)
            choices = choices * many if grows else many
        if not grows:
            runs.append([])
            choices = len(piece.texts) if isinstance(piece, Choice) else 1
            kind = Constant
        runs[-1].append(piece)
        if isinstance(piece, Choice) and len(piece.texts) > _MOST_REWRITTEN:
            kind = Strings
        elif not isinstance(piece, Constant):
            kind = type(piece)
    return runs


def _merge(run: list[Piece], rows: int) -> Piece:
    if len(run) == 1:
        return run[0]
    if all(isinstance(piece, Constant) for piece in run):
        return Constant(b"".join(piece.text for piece in run if isinstance(piece, Constant)))
    if any(isinstance(piece, Fixed) for piece in run):
        return _side_by_side(run, rows)
    return _multiplied(run)


def _side_by_side(run: list[Piece], rows: int) -> Fixed:
    template = b"".join(
        piece.text if isinstance(piece, Constant) else bytes(piece.matrix.shape[1])
        for piece in run
        if isinstance(piece, Constant | Fixed)
    )
    matrix = np.empty((rows, len(template)), np.uint8)
    matrix[:] = np.frombuffer(template, np.uint8)
    at = 0
    for piece in run:
        if isinstance(piece, Fixed):
            width = piece.matrix.shape[1]
            matrix[:, at : at + width] = piece.matrix
            at += width
        elif isinstance(piece, Constant):
            at += len(piece.text)
    return Fixed(matrix)


def _multiplied(run: list[Piece]) -> Choice:
    choices = [piece for piece in run if isinstance(piece, Choice)]
    sizes = [len(choice.texts) for choice in choices]
    combinations = np.unravel_index(np.arange(np.prod(sizes)), sizes)
    chosen = iter(zip(choices, combinations, strict=True))
    parts: list[pa.BinaryArray | pa.BinaryScalar] = []
    for piece in run:
        if isinstance(piece, Constant):
            parts.append(_scalar(piece))
        else:
            choice, index = next(chosen)
            parts.append(choice.texts.take(pa.array(index)) if len(choices) > 1 else choice.texts)
    codes = choices[0].codes
    for choice, size in zip(choices[1:], sizes[1:], strict=True):
        codes = codes.astype(np.int32) * size + choice.codes
    return Choice(codes, pc.binary_join_element_wise(*parts, b""))


def _scalar(piece: Constant) -> pa.BinaryScalar:
    return pa.scalar(piece.text, pa.binary())


def as_array(piece: Fixed | Choice | Strings) -> pa.BinaryArray:
    """A piece as one text per row."""
    match piece:
        case Fixed(matrix):
            rows, width = matrix.shape
            offsets = np.arange(0, (rows + 1) * width, width, dtype=np.int32)
            data = pa.py_buffer(np.ascontiguousarray(matrix))
            return pa.Array.from_buffers(pa.binary(), rows, [None, pa.py_buffer(offsets), data])
        case Choice(codes, texts):
            return texts.take(pa.array(codes))
        case Strings(texts):
            return texts
