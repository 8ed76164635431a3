"""Transformations choose, rename, mask and compute columns, and refuse what would break a view."""

import pyarrow as pa
import pytest
from events import trades

from functions.operators.sequence import InstrumentSequences, with_sequences
from marketdata.filters.computed import compile_computed
from marketdata.plans import Delivery, ViewSpec, compile_plan, view_of
from marketdata.schemas import KINDS, SEQUENCED_SCHEMAS, decimal_scale
from marketdata.transformations import Transformation, TransformationError

IDS = ["033630689aea4de8", "081707801312280d", "9efcb8d7d57531d5"]
DIGEST = "05e739d8303bf9914fb038be49a759c0c4a3600b259d7a8c773a785824ede0c3"
"""As they were before transformations could compute."""


def batch_of(kind: str) -> pa.RecordBatch:
    schema = SEQUENCED_SCHEMAS[kind]
    return pa.RecordBatch.from_arrays([pa.nulls(2, field.type) for field in schema], schema=schema)


def test_without_select_and_rename_the_batch_passes_as_it_is() -> None:
    batch = batch_of("trade")
    assert Transformation().is_identity
    assert Transformation().apply(batch) is batch


def test_select_gives_columns_in_its_order_and_keeps_metadata() -> None:
    chosen = Transformation(select=("price", "sequence", "instrument"))
    chosen.validate()
    result = chosen.apply(batch_of("trade"))
    assert result.schema.names == ["price", "sequence", "instrument"]
    assert result.schema.metadata == SEQUENCED_SCHEMAS["trade"].metadata
    assert result.schema.field("price").metadata == {b"unit": b"price"}


def test_column_that_a_kind_lacks_is_absent_there() -> None:
    chosen = Transformation(select=("instrument", "sequence", "price", "bid_price"))
    chosen.validate()
    assert chosen.apply(batch_of("quote")).schema.names == ["instrument", "sequence", "bid_price"]


def test_rename_changes_names_only() -> None:
    renamed = Transformation(rename={"price": "px"})
    renamed.validate()
    names = renamed.apply(batch_of("trade")).schema.names
    assert names == [("px" if n == "price" else n) for n in SEQUENCED_SCHEMAS["trade"].names]
    assert not renamed.is_identity


def test_two_columns_may_swap_names() -> None:
    swapped = Transformation(rename={"price": "size", "size": "price"})
    swapped.validate()
    schema = swapped.schema(SEQUENCED_SCHEMAS["trade"])
    assert schema.field("price").metadata == {b"unit": b"size"}


@pytest.mark.parametrize(
    ("transformation", "says"),
    [
        (Transformation(select=("instrument", "sequence", "prise")), "did you mean 'price'"),
        (Transformation(select=("instrument", "sequence", "kind")), "kind is no column"),
        (Transformation(rename={"zzzz": "a"}), "columns are: instrument"),
        (Transformation(select=("instrument", "price")), "drops 'sequence'"),
        (Transformation(select=("sequence", "price")), "drops 'instrument'"),
        (Transformation(select=("instrument", "sequence", "price", "price")), "chosen twice"),
        (Transformation(("instrument", "sequence"), {"price": "px"}), "select leaves out"),
        (Transformation(rename={"instrument": "symbol"}), "may not be renamed"),
        (Transformation(rename={"price": "size"}), "both be called 'size'"),
        (Transformation(rename={"price": "x", "size": "x"}), "both be called 'x'"),
        (Transformation(rename={"price": "a b"}), "cannot be a column's name"),
        (Transformation(rename={"price": "kind"}), "'kind' is taken"),
        (Transformation(rename={"price": ""}), "cannot be a column's name"),
        (Transformation(compute={"price": "1"}), "computed column 'price' and 'price' would both"),
        (Transformation(rename={"price": "px"}, compute={"px": "1"}), "'px' and 'price' would"),
        (Transformation(("instrument", "sequence"), compute={"epoch": "1"}), "may not be computed"),
        (Transformation(compute={"a b": "1"}), "cannot be a column's name"),
        (Transformation(compute={"kind": "1"}), "'kind' is taken"),
        (Transformation(compute={"1st": "1"}), "no digit first"),
        (Transformation(mask=("prise",)), "did you mean 'price'"),
        (Transformation(("instrument", "sequence"), mask=("price",)), "which select leaves out"),
        (Transformation(mask=("sequence",)), "may not be masked"),
        (Transformation(mask=("epoch",)), "may not be masked"),
    ],
)
def test_what_would_break_a_view_is_refused_with_a_hint(
    transformation: Transformation, says: str
) -> None:
    with pytest.raises(TransformationError, match=says) as caught:
        transformation.validate()
    assert caught.value.hint


def sequenced() -> pa.RecordBatch:
    batch = trades(["A", "B"], price=[187_250_000_000, None], size=[300_000_000, 100_000_000])
    numbers = InstrumentSequences().assign(batch)
    return with_sequences(batch, "trade", numbers, epoch=1, ts_sequenced_ns=1)


def test_computed_columns_stand_behind_the_others_in_the_order_of_their_names() -> None:
    """Neither JSONB nor the canonical JSON of plans keeps the order in which they were given."""
    computed = Transformation(
        select=("instrument", "sequence"),
        compute={"z": "upper(side)", "notional": "round(price * size, 2)"},
    )
    computed.validate()
    result = computed.apply(sequenced())
    assert result.to_pylist() == [
        {"instrument": "A", "sequence": 1, "notional": 56175, "z": "BUY"},
        {"instrument": "B", "sequence": 1, "notional": None, "z": "BUY"},
    ]
    assert result.schema == computed.schema(SEQUENCED_SCHEMAS["trade"])
    assert decimal_scale(result.schema.field("notional")) == 2
    assert not computed.is_identity


@pytest.mark.parametrize("kind", KINDS)
def test_computed_columns_are_in_every_kind_and_null_where_a_column_is_missing(kind: str) -> None:
    computed = Transformation(compute={"notional": "price * size", "of": "kind"})
    rows = computed.apply(batch_of(kind)).to_pylist()
    assert [(row["notional"], row["of"]) for row in rows] == [(None, kind)] * 2


def test_a_name_that_select_sets_free_may_be_computed() -> None:
    computed = Transformation(("instrument", "sequence"), compute={"price": "round(price, 1)"})
    computed.validate()
    assert computed.apply(sequenced()).column("price").to_pylist() == [1872, None]


def test_trees_at_hand_are_used_in_place_of_the_text() -> None:
    computed = Transformation(("instrument",), compute={"x": "no SQL at all"})
    trees = {"x": compile_computed("size * 2")}
    assert computed.apply(sequenced(), trees).column("x").to_pylist() == [600_000_000, 200_000_000]


def test_masked_columns_keep_name_place_and_type_and_lose_their_values() -> None:
    masked = Transformation(
        ("instrument", "sequence", "source", "price"), {"price": "px"}, mask=("source", "price")
    )
    masked.validate()
    before = Transformation(masked.select, masked.rename).apply(sequenced())
    result = masked.apply(sequenced())
    result.validate(full=True)
    assert result.schema.names == before.schema.names
    assert result.schema.types == before.schema.types
    assert result.schema.field("source").nullable
    assert result.column("source").to_pylist() == result.column("px").to_pylist() == [None, None]
    assert result.column("instrument").to_pylist() == ["A", "B"]
    assert not masked.is_identity


def test_masked_columns_can_be_computed_with() -> None:
    masked = Transformation(mask=("price",), compute={"about": "round(price, 0)"})
    rows = masked.apply(sequenced()).to_pylist()
    assert [(row["price"], row["about"]) for row in rows] == [(None, 187), (None, None)]


def test_views_that_compute_nothing_keep_the_names_they_had_before_it_was_known() -> None:
    narrow = Transformation(("instrument", "sequence", "price"), {"price": "px"})
    specs = [
        ViewSpec(),
        ViewSpec("price > 1", None, narrow, "json"),
        ViewSpec(format="csv", delivery=Delivery("zstd")),
    ]
    assert [view_of(spec).id for spec in specs] == IDS
    asked = Transformation(compute={}, mask=()).canonical()
    assert view_of(ViewSpec(transformation=asked)).id == IDS[0]
    assert compile_plan(3, specs, created_at_ns=1).digest == DIGEST


def test_equal_expressions_give_one_view_and_others_another() -> None:
    def view_id(**parts: object) -> str:
        return view_of(ViewSpec(transformation=Transformation(**parts).canonical())).id

    one = view_id(compute={"mid": "(bid_price + ask_price) / 2"}, mask=("size", "price"))
    same = view_id(compute={"mid": "0.5*(ASK_PRICE+bid_price)"}, mask=("price", "size", "size"))
    assert one == same
    assert len({one, view_id(compute={"mid": "bid_price"}), view_id(mask=("size",))}) == 3
