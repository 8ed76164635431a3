"""What a subscription may ask for in which format, and how it is told to read it."""

import pytest

from control_plane.domains.subscriptions.schemas import SubscriptionCreate
from control_plane.domains.subscriptions.view_check import describe_schema, view_spec
from control_plane.errors import InvalidRequestError
from marketdata.formats import formats, get_format
from marketdata.plans import ViewSpec
from marketdata.transformations import Transformation

RENAMED = Transformation(rename={"price": "px"})


@pytest.mark.parametrize("name", formats())
def test_every_format_is_described(name: str) -> None:
    spec = view_spec(SubscriptionCreate(consumer="desk", name="all", format=name))
    described = describe_schema(spec, with_columns=False)
    assert described.media_type == get_format(name).media_type
    assert described.description


@pytest.mark.parametrize("name", formats())
def test_renaming_is_refused_where_names_do_not_travel(name: str) -> None:
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


def test_a_format_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(InvalidRequestError) as raised:
        view_spec(SubscriptionCreate(consumer="desk", name="all", format="xml"))
    (problem,) = raised.value.problems
    assert problem.pointer == "/format"
    assert f"formats are: {', '.join(formats())}" in problem.detail
    assert "installed" in (problem.hint or "")


def test_a_subscription_whose_format_was_uninstalled_is_still_described() -> None:
    described = describe_schema(ViewSpec(format="gone"), with_columns=False)
    assert described.format == "gone"
    assert described.media_type == "application/octet-stream"
    assert "Not installed here" in described.description
