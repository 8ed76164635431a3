"""Custom transformations: found, checked against what they declare, and unable to harm a view."""

import importlib
import shutil
import sys
import tomllib
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from events import trades
from hypothesis import given
from hypothesis import strategies as st

from functions.operators.render import max_rows, render
from functions.operators.sequence import InstrumentSequences, with_sequences
from marketdata.custom import Answer, Custom, CustomFailed, UnknownCustom, call, registry, resolved
from marketdata.custom.answer import KEYS, checked
from marketdata.formats import get_format
from marketdata.frames import MAX_SYMBOL_BYTES, read_frame
from marketdata.plans import View, ViewSpec, view_of
from marketdata.schemas import KINDS, SEQUENCED_SCHEMAS, SYMBOL, decimal_scale
from marketdata.transformations import Transformation, TransformationError

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "custom_transformation"
Function = Callable[[pa.RecordBatch], Any]

NAMED = Custom("named", {"n": "integer", "text": "text"}, 8)


def sequenced(names: list[str]) -> pa.RecordBatch:
    batch = trades(names)
    numbers = InstrumentSequences().assign(batch)
    return with_sequences(batch, "trade", numbers, epoch=1, ts_sequenced_ns=1)


def keys_and(batch: pa.RecordBatch, **columns: pa.Array) -> pa.RecordBatch:
    given = batch.select(list(KEYS))
    for name, column in columns.items():
        given = given.append_column(name, column)
    return given


def named(batch: pa.RecordBatch) -> pa.RecordBatch:
    """An answer as `NAMED` declares it, for every row of the batch."""
    texts = pa.array([f"t{n}" for n in range(batch.num_rows)], pa.utf8())
    return keys_and(batch, n=pa.array(range(batch.num_rows), pa.int64()), text=texts)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes functions custom transformations for the length of a test."""

    def installed(**functions: Any) -> None:
        points = [
            SimpleNamespace(name=n, value=n, load=lambda g=g: g) for n, g in functions.items()
        ]
        loaded = registry.load(points)  # type: ignore[arg-type]
        monkeypatch.setattr(registry, "installed", lambda: loaded)

    return installed


def transforming(function: Function, **members: Any) -> Callable[[], Any]:
    declared = {
        "name": "named",
        "description": "Says hello.",
        "columns": NAMED.columns,
        "max_rows": NAMED.max_rows,
        "apply": staticmethod(function),
    }
    return lambda: SimpleNamespace(**declared | members)


def custom_view(custom: Custom = NAMED, **members: Any) -> View:
    return view_of(ViewSpec(transformation=Transformation(custom=custom, **members)))


EVENTS = st.tuples(st.sampled_from("ABC"), st.integers(1, 2), st.integers(1, 4))


@given(st.lists(EVENTS, min_size=1, max_size=12, unique=True), st.data())
def test_rows_are_those_that_the_answer_names_or_it_is_refused(
    events: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    """Against plain Python: an answer stands for the rows it has where these are in order."""
    instruments, epochs, sequences = (list(values) for values in zip(*events, strict=True))
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array(instruments).dictionary_encode().cast(SYMBOL),
            pa.array(epochs, pa.uint32()),
            pa.array(sequences, pa.uint64()),
        ],
        names=list(KEYS),
    )
    numbers = st.lists(st.integers(0, batch.num_rows - 1), max_size=batch.num_rows + 2)
    rows = data.draw(numbers | numbers.map(sorted) | numbers.map(lambda n: sorted(set(n))))
    # A dictionary of its own, in another order: only values tell.
    answer = named(batch.take(pa.array(rows, pa.int64())))
    own = pa.array(answer.column("instrument").to_pylist()[::-1], pa.utf8()).dictionary_encode()
    codes = pa.array(own.indices.to_numpy()[::-1].astype(np.int16))
    own = pa.DictionaryArray.from_arrays(codes, own.dictionary)
    answer = answer.set_column(0, answer.schema.field(0), own)

    if rows == sorted(set(rows)):
        found = checked(NAMED, batch, answer)
        expected = None if len(rows) == batch.num_rows else rows
        assert (found.rows if found.rows is None else found.rows.tolist()) == expected
        assert [c.to_pylist() for c in found.columns] == [
            list(range(len(rows))),
            [f"t{n}" for n in range(len(rows))],
        ]
    else:
        with pytest.raises(ValueError, match="twice or in another order"):
            checked(NAMED, batch, answer)


def set_key(name: str, values: list[Any]) -> Function:
    def changed(batch: pa.RecordBatch) -> pa.RecordBatch:
        answer = named(batch)
        place = answer.schema.get_field_index(name)
        type_ = answer.schema.field(name).type
        column = pa.array(values, pa.utf8() if name == "instrument" else type_)
        if name == "instrument":
            column = column.dictionary_encode().cast(type_)
        return answer.set_column(place, pa.field(name, type_), column)

    return changed


def bad_text(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Texts that are no UTF-8, as arrays from buffers may hold."""
    offsets = pa.py_buffer(np.array([0, 1, 1, 1], np.int32))
    texts = pa.Array.from_buffers(pa.utf8(), 3, [None, offsets, pa.py_buffer(b"\xff")])
    return keys_and(batch, n=pa.nulls(3, pa.int64()), text=texts)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda _: None, "gave NoneType, not a record batch"),
        (lambda batch: batch, "gave the columns instrument .* and has to give .* n \\(int64\\)"),
        (lambda batch: keys_and(batch, n=pa.nulls(3, pa.int64())), "has to give"),
        (lambda b: keys_and(b, n=pa.nulls(3, pa.int32()), text=pa.nulls(3, pa.utf8())), "int32"),
        (lambda batch: named(batch).append_column("n", batch.column("epoch")), "has to give"),
        (set_key("instrument", ["A", "B", "X"]), "an event that it was not given"),
        (set_key("sequence", [1, 1, 7]), "an event that it was not given"),
        (set_key("epoch", [1, 1, 2]), "an event that it was not given"),
        (set_key("sequence", [1, None, 1]), "without instrument, epoch or sequence"),
        (set_key("instrument", ["A", None, "C"]), "without instrument, epoch or sequence"),
        (bad_text, "[Ii]nvalid UTF8"),
        (
            lambda b: keys_and(
                b, n=pa.nulls(3, pa.int64()), text=pa.array([None, None, "x" * 256])
            ),
            f"a text of 256 bytes in 'text'; at most {MAX_SYMBOL_BYTES}",
        ),
        (lambda batch: batch.column("nope"), "failed: KeyError"),
        (lambda _: sys.exit(3), "failed: SystemExit: 3"),
    ],
)
def test_what_breaks_the_declaration_is_refused(
    install: Callable[..., None], function: Function, reason: str
) -> None:
    install(named=transforming(function))
    with pytest.raises(CustomFailed, match=f"custom transformation 'named' .*{reason}"):
        call(NAMED, sequenced(["A", "B", "C"]))


def test_columns_and_rows_are_delivered_beside_those_of_the_events(
    install: Callable[..., None],
) -> None:
    install(named=transforming(lambda batch: named(batch.slice(1, 1))))
    view = custom_view(
        select=("sequence", "instrument", "price"), rename={"price": "px"}, mask=("price",)
    )
    batch = sequenced(["A", "B", "C"])
    rendered = render(view, batch)
    delivered = read_frame(rendered.messages[0])
    assert rendered.rows.to_pylist() == batch.slice(1, 1).to_pylist()
    assert delivered.schema.names == ["sequence", "instrument", "px", "n", "text"]
    assert delivered.to_pylist() == [
        {"sequence": 1, "instrument": "B", "px": None, "n": 0, "text": "t0"}
    ]
    # A piece names nothing that its view does not get.
    assert delivered.column("instrument").dictionary.to_pylist() == ["B"]
    assert delivered.schema == view.transformation.schema(SEQUENCED_SCHEMAS["trade"])


def test_nothing_kept_is_no_message(install: Callable[..., None]) -> None:
    install(named=transforming(lambda batch: named(batch.slice(0, 0))))
    rendered = render(custom_view(), sequenced(["A"]))
    assert (rendered.rows.num_rows, rendered.messages) == (0, [])


def test_it_is_given_no_more_rows_than_it_declares() -> None:
    assert max_rows(custom_view()) == 8
    assert max_rows(custom_view(Custom("named", {}, 32_768))) == get_format("arrow").max_rows


def test_the_declaration_has_to_be_the_one_that_the_view_was_made_with(
    install: Callable[..., None],
) -> None:
    install(named=transforming(named))
    other = Custom("named", {"n": "decimal(2)", "text": "text"}, 8)
    with pytest.raises(CustomFailed, match="declares something else here"):
        call(other, sequenced(["A"]))
    with pytest.raises(CustomFailed, match="unknown custom transformation 'nope'; installed are"):
        call(Custom("nope", {}, 8), sequenced(["A"]))
    assert resolved(Custom("named")) == NAMED
    with pytest.raises(UnknownCustom, match="declares max_rows 8, not 9"):
        resolved(Custom("named", max_rows=9))


def test_what_does_not_keep_the_contract_is_not_loaded_and_stops_no_other(
    install: Callable[..., None],
) -> None:
    def leaves() -> None:
        raise SystemExit("for good")

    def cancelled() -> None:
        raise CancelledError("for good")

    install(
        named=transforming(named),
        other=transforming(named),
        mute=transforming(named, name="mute", description=""),
        idle=transforming(named, name="idle", apply=None),
        greedy=transforming(named, name="greedy", max_rows=40_000),
        odd=transforming(named, name="odd", columns={"x": "float"}),
        leaves=leaves,
        cancelled=cancelled,
        two_lines=transforming(named, name="two_lines", columns={"x\n": "text"}),
    )
    assert list(registry.custom_transformations()) == ["named"]
    for name, reason in {
        "other": "`name` must be 'other'",
        "mute": "`description` must be a text",
        "idle": "`apply` must be a method",
        "greedy": "max_rows",
        "odd": "columns",
        "leaves": "SystemExit: for good",
        "cancelled": "CancelledError: for good",
        "two_lines": "matching regex",
    }.items():
        with pytest.raises(UnknownCustom, match=reason):
            resolved(Custom(name))


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (CancelledError("stop"), "CancelledError: stop"),
        (KeyboardInterrupt(), "KeyboardInterrupt: "),
        (Mute(), "Mute"),
        (ValueError("bad venue \udcff"), "ValueError: bad venue ?"),
    ],
)
def test_whatever_it_raises_is_its_failure_told_in_words_that_can_be_sent(
    install: Callable[..., None], raised: BaseException, says: str
) -> None:
    def fails(_: pa.RecordBatch) -> None:
        raise raised

    install(named=transforming(fails))
    with pytest.raises(CustomFailed) as told:
        call(NAMED, sequenced(["A"]))
    assert str(told.value) == f"custom transformation 'named' failed: {says}"


@pytest.mark.parametrize(
    "custom",
    [
        {"name": "named\n"},
        {"name": "named", "columns": {"x\n": "text"}},
        {"name": "named", "columns": {"x": "text\n"}},
    ],
)
def test_a_name_does_not_end_with_a_new_line(custom: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match="matching regex"):
        msgspec.convert(custom, Custom)


def test_of_two_of_one_name_the_first_is_kept() -> None:
    points = [
        SimpleNamespace(name="named", value=f"v{n}", load=lambda: transforming(named))
        for n in range(2)
    ]
    loaded = registry.load(points)  # type: ignore[arg-type]
    assert loaded.refused == {"named": "v1: the name 'named' is taken; choose another"}


@pytest.mark.parametrize(
    ("transformation", "says"),
    [
        (Transformation(custom=Custom("c", {"price": "integer"}, 8)), "'price', and the view has"),
        (
            Transformation(compute={"n": "1"}, custom=Custom("c", {"n": "integer"}, 8)),
            "'n', and the view has one",
        ),
        (
            Transformation(rename={"price": "n"}, custom=Custom("c", {"n": "integer"}, 8)),
            "'n', and the view has one",
        ),
        (
            Transformation(("instrument", "sequence"), custom=Custom("c", {"epoch": "integer"}, 8)),
            "must name it otherwise",
        ),
        (Transformation(custom=Custom("c", {"kind": "text"}, 8)), "'kind' is taken"),
    ],
)
def test_names_that_are_taken_are_refused(transformation: Transformation, says: str) -> None:
    with pytest.raises(TransformationError, match=says):
        transformation.validate()


def test_declared_types_are_columns_of_the_formats() -> None:
    every = {"a": "text", "b": "time", "c": "integer", "d": "decimal(4)"}
    schema = Transformation(custom=Custom("c", every, 8)).schema(SEQUENCED_SCHEMAS["quote"])
    told = [(f.name, str(f.type), decimal_scale(f)) for f in list(schema)[-4:]]
    assert told == [
        ("a", "string", None),
        ("b", "timestamp[ns, tz=UTC]", None),
        ("c", "int64", None),
        ("d", "int64", 4),
    ]


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Custom]:
    """The package of the documentation, as pip leaves it."""
    monkeypatch.syspath_prepend(tmp_path)
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    shutil.copy(EXAMPLE / "notional_bands.py", tmp_path)
    info = tmp_path / "notional_bands-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: notional-bands\nVersion: 1.0\n")
    points = project["entry-points"][registry.GROUP]
    lines = [f"[{registry.GROUP}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    importlib.invalidate_caches()
    registry.installed.cache_clear()
    yield resolved(Custom("notional-bands"))
    sys.modules.pop("notional_bands", None)
    registry.installed.cache_clear()


def test_the_documented_example_works_on_every_kind(example: Custom) -> None:
    for kind in KINDS:
        schema = SEQUENCED_SCHEMAS[kind]
        prices = {"price": [250 * 10**9, None, 10**9], "size": [10**10, 10**8, 10**8]}
        given = {"instrument": ["A", "A", "B"], "epoch": [1, 1, 1], "sequence": [1, 2, 1], **prices}
        batch = pa.RecordBatch.from_arrays(
            [
                pa.array(given[field.name], field.type)
                if field.name in given and field.name != "instrument"
                else pa.array(given.get(field.name, [None] * 3))
                .dictionary_encode()
                .cast(field.type)
                if pa.types.is_dictionary(field.type)
                else pa.nulls(3, field.type)
                for field in schema
            ],
            schema=schema,
        )
        answer = call(example, batch)
        if "size" in schema.names and "price" in schema.names:
            assert (answer.rows is not None and answer.rows.tolist()) == [0]
            assert answer.columns[0].to_pylist() == ["retail"]
        else:
            assert answer == Answer(None, (pa.nulls(3, pa.utf8()),))


def test_an_entry_point_is_loaded_by_its_value() -> None:
    loaded = registry.load([EntryPoint("absent", "nowhere_at_all:Thing", registry.GROUP)])
    assert "ModuleNotFoundError" in loaded.refused["absent"]
