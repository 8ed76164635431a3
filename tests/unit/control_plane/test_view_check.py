"""What a subscription may ask for in which format, and how it is told to read it."""

from typing import get_args

import pytest

from control_plane.domains.subscriptions.schemas import SubscriptionCreate
from control_plane.domains.subscriptions.view_check import describe_schema, view_spec
from control_plane.errors import InvalidRequestError
from marketdata.formats import FORMATS, get_format
from marketdata.plans import FormatName
from marketdata.transformations import Transformation

RENAMED = Transformation(rename={"price": "px"})


def test_every_format_can_be_asked_for() -> None:
    assert set(get_args(FormatName)) == set(FORMATS)


@pytest.mark.parametrize("name", get_args(FormatName))
def test_every_format_is_described(name: FormatName) -> None:
    spec = view_spec(SubscriptionCreate(consumer="desk", name="all", format=name))
    described = describe_schema(spec, with_columns=False)
    assert described.media_type == get_format(name).media_type
    assert described.description


@pytest.mark.parametrize("name", get_args(FormatName))
def test_renaming_is_refused_where_names_do_not_travel(name: FormatName) -> None:
    request = SubscriptionCreate(consumer="desk", name="all", format=name, transformation=RENAMED)
    if get_format(name).renames:
        assert view_spec(request).transformation == RENAMED
        return
    with pytest.raises(InvalidRequestError) as raised:
        view_spec(request)
    (problem,) = raised.value.problems
    assert problem.pointer == "/transformation/rename"
    assert "choose another format" in (problem.hint or "")


def test_a_rename_that_changes_nothing_is_none() -> None:
    same = Transformation(rename={"price": "price"})
    request = SubscriptionCreate(
        consumer="desk", name="all", format="protobuf", transformation=same
    )
    assert view_spec(request).format == "protobuf"
