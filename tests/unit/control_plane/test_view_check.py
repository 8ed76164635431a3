"""What a subscription may ask for in which format, and how it is told to read it."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from control_plane.domains.consumers.models import Consumer
from control_plane.domains.rules.policy import Policy
from control_plane.domains.subscriptions.schemas import SubscriptionCreate
from control_plane.domains.subscriptions.view_check import describe_schema, entitled_spec, view_spec
from control_plane.errors import InvalidRequestError
from marketdata.custom import Custom, registry
from marketdata.entitlements import Entitlements
from marketdata.filters import Filter, compile_filter
from marketdata.formats import formats, get_format
from marketdata.plans import (
    Conflate,
    Delivery,
    Sample,
    ViewSpec,
    compile_plan,
    decode_plan,
    encode_plan,
    view_of,
)
from marketdata.rules import Rule
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


def test_new_filters_with_endless_products_are_refused_and_old_ones_stay_filters() -> None:
    sql = "size > 1 OR " + " * ".join(["sequence"] * 5) + " > 1"
    with pytest.raises(InvalidRequestError) as raised:
        view_spec(SubscriptionCreate(consumer="desk", name="all", filter=sql))
    (problem,) = raised.value.problems
    assert problem.pointer == "/filter"
    assert "can have 320 bits, more than 256" in problem.detail
    assert (problem.position, problem.line, problem.column) == (0, 1, 1)
    assert "at most four columns" in (problem.hint or "")
    stored = compile_filter(sql)
    assert Filter.from_json(stored.to_json()) == stored


@pytest.mark.parametrize("name", formats())
def test_computing_is_refused_where_names_do_not_travel(name: str) -> None:
    computing = Transformation(compute={"mid": "(bid_price + ask_price) / 2"}, mask=("region",))
    request = SubscriptionCreate(consumer="desk", name="all", format=name, transformation=computing)
    if get_format(name).renames:
        spec = view_spec(request)
        assert spec.transformation == computing.canonical()
        assert spec.computed == computing.compiled()
        assert msgspec.convert(msgspec.to_builtins(spec), ViewSpec) == spec
        return
    with pytest.raises(InvalidRequestError) as raised:
        view_spec(request)
    (problem,) = raised.value.problems
    assert problem.pointer == "/transformation/compute"
    assert "choose another format" in (problem.hint or "")


def test_protobuf_views_may_mask() -> None:
    request = SubscriptionCreate(
        consumer="desk",
        name="all",
        format="protobuf",
        transformation=Transformation(mask=("size",)),
    )
    assert view_spec(request).transformation.mask == ("size",)


def test_computed_columns_are_described_with_type_and_scale() -> None:
    def described(**compute: str) -> dict[str, tuple[str, int | None]]:
        computing = Transformation(("instrument", "sequence", "size"), compute=compute)
        spec = view_spec(SubscriptionCreate(consumer="d", name="a", transformation=computing))
        columns = describe_schema(spec, with_columns=True).columns
        assert columns is not None
        assert {kind: len(some) for kind, some in columns.items() if kind == "quote"}
        return {column.name: (column.type, column.scale) for column in columns["trade"]}

    assert described(notional="round(price * size, 2)", side_="upper(side)") == {
        "instrument": ("dictionary<values=string, indices=int16, ordered=0>", None),
        "sequence": ("uint64", None),
        "size": ("int64", 8),
        "notional": ("int64", 2),
        "side_": ("string", None),
    }
    # Not what was remembered of another view with the same select.
    assert described(notional="price * size")["notional"] == ("int64", 9)


def test_every_expression_and_every_name_is_judged() -> None:
    computing = Transformation(
        compute={"a/b~c": "1", "ok": "price", "bad": "prise", "worse": "price *\n side"}
    )
    with pytest.raises(InvalidRequestError) as raised:
        view_spec(SubscriptionCreate(consumer="d", name="a", transformation=computing))
    bad, worse, name = raised.value.problems
    assert (bad.pointer, bad.position) == ("/transformation/compute/bad", 0)
    assert bad.hint == "did you mean price?"
    assert (worse.pointer, worse.position) == ("/transformation/compute/worse", 0)
    assert "cannot be a column's name" in name.detail
    with pytest.raises(InvalidRequestError) as raised:
        view_spec(
            SubscriptionCreate(
                consumer="d", name="a", transformation=Transformation(compute={"a/b~c": "x"})
            )
        )
    assert raised.value.problems[0].pointer == "/transformation/compute/a~1b~0c"


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


def test_expressions_that_would_hold_up_others_are_refused() -> None:
    allowed = {f"c{n}": " + ".join(["price"] * 12) for n in range(10)}
    computing = Transformation(compute=allowed)
    request = SubscriptionCreate(consumer="desk", name="all", transformation=computing)
    assert view_spec(request).computed
    wide = allowed | {"d": " + ".join(["price"] * 20)}
    request = msgspec.structs.replace(request, transformation=Transformation(compute=wide))
    with pytest.raises(InvalidRequestError) as raised:
        view_spec(request)
    (problem,) = raised.value.problems
    assert problem.pointer == "/transformation/compute"
    assert "256 are allowed" in problem.detail


def test_kinds_apart_are_what_a_view_without_a_word_has() -> None:
    requests = [
        SubscriptionCreate(consumer="desk", name="all", delivery=delivery)
        for delivery in (Delivery(), Delivery(kinds="apart"), Delivery(kinds="together"))
    ]
    silent, apart, together = (view_of(view_spec(request)) for request in requests)
    assert silent == apart
    assert silent.id == view_of(ViewSpec()).id
    assert together.id != silent.id
    assert decode_plan(encode_plan(compile_plan(1, [together], created_at_ns=1))).views == (
        together,
    )


def test_kinds_together_are_described_as_one_table() -> None:
    request = SubscriptionCreate(
        consumer="desk", name="all", delivery=Delivery(kinds="together"), transformation=RENAMED
    )
    described = describe_schema(view_spec(request), with_columns=True)
    assert "several kinds" in described.description
    columns = described.columns
    assert columns is not None
    (mixed,) = columns.values()
    assert list(columns) == ["mixed"]
    assert [column.name for column in mixed][:2] == ["kind", "instrument"]
    assert {"px", "bid_price"} <= {column.name for column in mixed}


@pytest.mark.parametrize("name", sorted(formats().keys() - {"arrow"}))
def test_kinds_together_are_for_arrow(name: str) -> None:
    request = SubscriptionCreate(
        consumer="desk", name="all", format=name, delivery=Delivery(kinds="together")
    )
    with pytest.raises(InvalidRequestError) as raised:
        view_spec(request)
    (problem,) = raised.value.problems
    assert problem.pointer == "/delivery/kinds"
    assert "arrow" in (problem.hint or "")


@pytest.fixture
def bands(monkeypatch: pytest.MonkeyPatch) -> Custom:
    """A custom transformation that is installed for the length of a test."""
    given = SimpleNamespace(
        name="bands", description="d", columns={"band": "decimal(4)"}, max_rows=100, apply=id
    )
    point: Any = SimpleNamespace(name="bands", value="bands", load=lambda: lambda: given)
    loaded = registry.load([point])
    monkeypatch.setattr(registry, "installed", lambda: loaded)
    return Custom("bands", {"band": "decimal(4)"}, 100)


@pytest.mark.parametrize("name", formats())
def test_a_custom_transformation_is_told_with_what_its_package_declares(
    bands: Custom, name: str
) -> None:
    asking = Transformation(custom=Custom("bands"))
    request = SubscriptionCreate(consumer="desk", name="all", format=name, transformation=asking)
    if not get_format(name).renames:
        with pytest.raises(InvalidRequestError) as raised:
            view_spec(request)
        assert [p.pointer for p in raised.value.problems] == ["/transformation/custom"]
        return
    spec = view_spec(request)
    assert spec.transformation.custom == bands
    assert msgspec.convert(msgspec.to_builtins(spec), ViewSpec) == spec
    columns = describe_schema(spec, with_columns=True).columns or {}
    for told in columns.values():
        assert (told[-1].name, told[-1].type, told[-1].scale) == ("band", "int64", 4)


@pytest.mark.parametrize(
    ("custom", "says"),
    [
        (Custom("nope"), "unknown custom transformation 'nope'; installed are: bands"),
        (Custom("bands", max_rows=99), "'bands' declares max_rows 100, not 99"),
    ],
)
@pytest.mark.usefixtures("bands")
def test_a_custom_transformation_that_is_not_there_is_refused(custom: Custom, says: str) -> None:
    request = SubscriptionCreate("desk", "all", transformation=Transformation(custom=custom))
    with pytest.raises(InvalidRequestError) as raised:
        view_spec(request)
    (problem,) = raised.value.problems
    assert (problem.pointer, problem.detail) == ("/transformation/custom", says)
    assert "installed here" in (problem.hint or "")


@pytest.mark.usefixtures("bands")
def test_a_custom_transformation_is_not_given_several_kinds() -> None:
    asking = Transformation(custom=Custom("bands"))
    request = SubscriptionCreate(
        "desk", "all", transformation=asking, delivery=Delivery(kinds="together")
    )
    with pytest.raises(InvalidRequestError) as raised:
        view_spec(request)
    assert [p.pointer for p in raised.value.problems] == ["/delivery/kinds"]


@pytest.mark.parametrize("name", formats())
def test_rules_are_compiled_and_marks_are_told(name: str) -> None:
    rules = {"crossed": Rule("ask_price>=bid_price", "mark"), "old": Rule("epoch > 1", "drop")}
    asking = Transformation(rules=rules)
    request = SubscriptionCreate("desk", "all", format=name, transformation=asking)
    if not get_format(name).renames:
        with pytest.raises(InvalidRequestError) as raised:
            view_spec(request)
        assert [p.pointer for p in raised.value.problems] == ["/transformation/rules"]
        return
    spec = view_spec(request)
    assert spec.transformation.rules == rules | {"crossed": Rule("ask_price >= bid_price", "mark")}
    assert spec.conditions == asking.conditions()
    assert msgspec.convert(msgspec.to_builtins(spec), ViewSpec) == spec
    for told in (describe_schema(spec, with_columns=True).columns or {}).values():
        assert (told[-1].name, told[-1].type) == ("failed_rules", "string")


def test_a_rule_that_is_refused_is_told_with_its_place() -> None:
    asking = Transformation(rules={"bad": Rule("price > 0 AND prise > 0", "drop")})
    with pytest.raises(InvalidRequestError) as raised:
        view_spec(SubscriptionCreate("desk", "all", transformation=asking))
    (problem,) = raised.value.problems
    assert problem.pointer == "/transformation/rules/bad/condition"
    assert problem.position == 14


def test_one_event_a_message_is_described_with_the_schema_of_its_topic() -> None:
    delivery = Delivery(granularity="event")
    for name, type_ in (("json", "JSON"), ("avro", "AVRO"), ("protobuf", "PROTOBUF_NATIVE")):
        request = SubscriptionCreate(
            consumer="desk", name="all", filter="kind = 'trade'", format=name, delivery=delivery
        )
        described = describe_schema(view_spec(request), with_columns=True)
        assert described.pulsar_schema is not None
        assert described.pulsar_schema.type == type_
        assert "one event" in described.description
    for name in ("csv", "msgpack", "fix"):
        request = SubscriptionCreate(consumer="desk", name="all", format=name, delivery=delivery)
        assert describe_schema(view_spec(request), with_columns=True).pulsar_schema is None


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"format": "arrow"}, "/delivery/granularity"),
        ({"format": "avro"}, "/delivery/granularity"),
        ({"format": "json", "compression": "lz4"}, "/delivery/compression"),
        ({"format": "json", "max_events": 100}, "/delivery/max_events"),
    ],
)
def test_what_does_not_go_with_one_event_a_message_is_refused(
    members: dict[str, Any], pointer: str
) -> None:
    format_ = members.pop("format")
    delivery = Delivery(granularity="event", **members)
    request = SubscriptionCreate(consumer="desk", name="all", format=format_, delivery=delivery)
    with pytest.raises(InvalidRequestError) as raised:
        view_spec(request)
    (problem,) = raised.value.problems
    assert problem.pointer == pointer
    assert problem.hint


def test_frames_are_what_is_meant_without_a_word() -> None:
    said = SubscriptionCreate(consumer="d", name="a", delivery=Delivery(granularity="frame"))
    unsaid = SubscriptionCreate(consumer="d", name="a")
    assert view_of(view_spec(said)).id == view_of(view_spec(unsaid)).id
    with pytest.raises(msgspec.ValidationError, match="max_events"):
        msgspec.convert({"max_events": 7}, Delivery)


@pytest.mark.parametrize(
    ("filter_", "delivery", "pointer"),
    [
        ("", Delivery(conflate=Conflate(500), kinds="together"), "/delivery/kinds"),
        ("kind = 'book'", Delivery(conflate=Conflate(500)), "/delivery/conflate"),
        ("kind = 'book'", Delivery(sample=Sample(10)), "/delivery/sample"),
        ("kind = 'book'", Delivery(max_rate=10), "/delivery/max_rate"),
    ],
)
def test_what_cannot_be_left_out_is_refused(filter_: str, delivery: Delivery, pointer: str) -> None:
    asked = SubscriptionCreate(consumer="c", name="n", filter=filter_, delivery=delivery)
    with pytest.raises(InvalidRequestError) as refused:
        view_spec(asked)
    assert [problem.pointer for problem in refused.value.problems] == [pointer]


LANES = ["delay-900", "follows-a"]


@pytest.mark.parametrize(
    ("delivery", "entitlements", "pointer", "text"),
    [
        (Delivery(conflate=Conflate(500), delay_seconds=900), {}, "delay_seconds", "both delays"),
        (Delivery(max_rate=5), {"minimum_delay_seconds": 900}, "delay_seconds", "both delays"),
        (Delivery(delay_seconds=900), {"maximum_rate": 5}, "delay_seconds", "both delays"),
        (Delivery(delay_seconds=60), {}, "delay_seconds", "no function delays by 60 s"),
        (Delivery(conflate=Conflate(500)), {}, "conflate", "no function conflates"),
        (Delivery(), {"maximum_rate": 5}, "max_rate", "no function conflates"),
        (Delivery(follows="b"), {}, "follows", "no function follows the workflow 'b'"),
        (Delivery(follows="a", delay_seconds=900), {}, "follows", "follows a workflow and delays"),
        (Delivery(follows="a"), {"maximum_rate": 5}, "follows", "a workflow and conflates"),
    ],
)
def test_what_no_function_serves_is_refused(
    delivery: Delivery, entitlements: dict[str, Any], pointer: str, text: str
) -> None:
    asked = SubscriptionCreate(consumer="c", name="n", delivery=delivery)
    entitled = Entitlements(**entitlements)
    consumer = Consumer(name="c", region="", workflow="", labels={})
    with pytest.raises(InvalidRequestError, match=text) as refused:
        entitled_spec(asked, view_spec(asked), consumer, Policy([], {}), entitled, LANES)
    assert [each.pointer for each in refused.value.problems] == [f"/delivery/{pointer}"]
