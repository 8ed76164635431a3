"""Transformations choose and rename columns, and refuse what would break a view."""

import pyarrow as pa
import pytest

from marketdata.schemas import SEQUENCED_SCHEMAS
from marketdata.transformations import Transformation, TransformationError


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
    ],
)
def test_what_would_break_a_view_is_refused_with_a_hint(
    transformation: Transformation, says: str
) -> None:
    with pytest.raises(TransformationError, match=says) as caught:
        transformation.validate()
    assert caught.value.hint
