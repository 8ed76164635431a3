"""The difference between topology and cluster: applying it always ends in what was declared."""

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from control_plane.topology import (
    Actual,
    Change,
    Topology,
    destruction,
    diff,
    load_topology,
    summary,
)
from control_plane.topology.function_config import attributes_of, pulsar_config
from control_plane.topology.model import (
    Bundle,
    FunctionSpec,
    FunctionState,
    Input,
    Namespace,
    Subscription,
    Tenant,
    Topic,
    TopicState,
    namespace_of,
)
from control_plane.topology.policies import POLICIES

TOPOLOGY = Path(__file__).resolve().parents[3] / "topology"
CLUSTERS = ("standalone",)
NAMES = ("alpha", "beta", "gamma")
NAMESPACES = tuple(f"{tenant}/{name}" for tenant in ("one", "two") for name in NAMES[:2])
TOPICS = tuple(f"persistent://{namespace}/{name}" for namespace in NAMESPACES for name in NAMES)

tenants = st.builds(
    Tenant,
    st.just("t"),
    admin_roles=st.lists(st.sampled_from(["ops", "dev"]), unique=True).map(sorted).map(tuple),
    allowed_clusters=st.sampled_from([(), CLUSTERS]),
)
policies = st.dictionaries(
    st.sampled_from(sorted({key for policy in POLICIES for key in policy.keys})),
    st.integers(0, 3),
)
values = st.one_of(
    st.integers(0, 3),
    st.lists(st.sampled_from(NAMES), max_size=2),
    st.dictionaries(st.sampled_from(NAMES), st.text(max_size=2), min_size=1),
)
user_configs = st.fixed_dictionaries(
    {},
    optional={
        "max_rows": values,
        "operators": values,
        "topics": st.dictionaries(st.sampled_from(NAMES), st.sampled_from(TOPICS), min_size=1),
    },
)


@st.composite
def function_specs(draw: st.DrawFn, name: str) -> FunctionSpec:
    topics = draw(st.lists(st.sampled_from(TOPICS), min_size=1, max_size=2, unique=True))
    return FunctionSpec(
        name=name,
        class_name=draw(st.sampled_from(["functions.a.A", "functions.b.B"])),
        parallelism=draw(st.integers(1, 2)),
        inputs=tuple(Input(topic, "functions.s.S", draw(st.integers(1, 2))) for topic in topics),
        subscription=draw(st.sampled_from(NAMES)),
        cpu=draw(st.sampled_from([0.5, 1.0])),
        ram_bytes=1 << 30,
        disk_bytes=1 << 30,
        log_topic=draw(st.sampled_from(["", TOPICS[0]])),
        user_config=draw(user_configs),
    )


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    names = draw(st.lists(st.sampled_from(NAMESPACES), unique=True))
    namespaces = {
        name: Namespace(name, draw(policies), draw(st.sampled_from(["", "view-*"])))
        for name in names
    }
    topics = {
        name: Topic(name, draw(st.sampled_from([0, 2])), draw(st.booleans()))
        for name in TOPICS
        if namespace_of(name) in namespaces and draw(st.booleans())
    }
    chosen = [f"{name}/{each}" for name in names for each in NAMES if draw(st.booleans())]
    return Topology(
        partitions=2,
        tenants={name: replace(draw(tenants), name=name) for name in ("one", "two")},
        namespaces=namespaces,
        topics=topics,
        functions={name: draw(function_specs(name)) for name in chosen},
    )


@st.composite
def clusters(draw: st.DrawFn) -> Actual:
    """A cluster that another topology, or somebody by hand, has made."""
    source = draw(topologies())
    topics = {
        name: TopicState(
            name, topic.partitions, (0,) if topic.partitions and draw(st.booleans()) else ()
        )
        for name, topic in source.topics.items()
    }
    cursors = st.tuples(st.sampled_from(TOPICS), st.sampled_from([*NAMES, "stray"]))
    return Actual(
        clusters=CLUSTERS,
        tenants={name: tenant for name, tenant in source.tenants.items() if draw(st.booleans())},
        namespaces={name: each.policies for name, each in source.namespaces.items()},
        topics=topics,
        subscriptions=frozenset(draw(st.lists(cursors, max_size=3))),
        functions={
            name: FunctionState(name, echo(spec), spec.parallelism, draw(st.integers(0, 2)))
            for name, spec in source.functions.items()
        },
    )


def echo(spec: FunctionSpec) -> dict[str, object]:
    """The config as Pulsar gives it back: more fields, integers of the user config as floats."""
    config = pulsar_config(spec)
    floats = {
        key: float(value) if isinstance(value, int) else value
        for key, value in config["userConfig"].items()
    }
    return config | {"userConfig": floats, "forwardSourceMessageProperty": True, "py": None}


def after(actual: Actual, changes: list[Change]) -> Actual:
    """A model of a cluster on which the changes have been carried out."""
    tenants, namespaces = dict(actual.tenants), dict(actual.namespaces)
    topics, functions = dict(actual.topics), dict(actual.functions)
    subscriptions = set(actual.subscriptions)
    for change in changes:
        assert change.action != "refuse"
        removed = change.action == "delete"
        match change.desired:
            case Tenant() as tenant:
                tenants[tenant.name] = tenant
            case Namespace() as namespace:
                namespaces[namespace.name] = dict(namespace.policies)
            case Topic() as topic:
                topics[topic.name] = TopicState(topic.name, topic.partitions)
            case Subscription() as each if removed:
                subscriptions.discard((each.topic, each.name))
            case Subscription() as each:
                subscriptions.add((each.topic, each.name))
            case FunctionSpec() as spec:
                state = FunctionState(spec.name, echo(spec), spec.parallelism, spec.parallelism)
                functions[spec.name] = state
            case None:
                for things in (tenants, namespaces, topics, functions):
                    things.pop(change.name, None)
    return Actual(actual.clusters, tenants, namespaces, topics, frozenset(subscriptions), functions)


def applicable(changes: list[Change]) -> list[Change]:
    return [each for each in changes if each.action != "refuse"]


@given(topologies(), clusters())
def test_applying_a_difference_leaves_nothing_but_what_is_refused(
    desired: Topology, actual: Actual
) -> None:
    first = diff(desired, actual)
    second = diff(desired, after(actual, applicable(first)))
    assert [each.name for each in second] == [
        each.name for each in first if each.action == "refuse"
    ]
    assert applicable(second) == []


@given(topologies(), clusters())
def test_applying_a_pruning_difference_leaves_no_neighbours(
    desired: Topology, actual: Actual
) -> None:
    changes = applicable(diff(desired, actual, prune=True))
    left = after(actual, changes)
    assert applicable(diff(desired, left, prune=True)) == []
    assert set(left.functions) >= set(desired.functions)
    assert {name for name in left.namespaces if name.split("/")[0] in desired.tenants} == set(
        desired.namespaces
    )


@given(topologies(), clusters())
def test_without_prune_nothing_is_deleted(desired: Topology, actual: Actual) -> None:
    assert all(each.action != "delete" for each in diff(desired, actual))


@given(topologies(), clusters())
def test_destroying_leaves_nothing_that_the_topology_names(
    desired: Topology, actual: Actual
) -> None:
    changes = destruction(desired, actual)
    left = after(actual, changes)
    assert not set(left.functions) & set(desired.functions)
    assert not set(left.topics) & set(desired.topics)
    assert not set(left.namespaces) & set(desired.namespaces)
    named = {*desired.functions, *desired.namespaces, *desired.tenants, *desired.topics}
    assert {each.name for each in changes} <= named


@given(topologies(), clusters())
def test_things_are_created_after_what_they_stand_on(desired: Topology, actual: Actual) -> None:
    order = ["tenant", "namespace", "topic", "subscription", "function"]
    kinds = [order.index(each.kind) for each in diff(desired, actual)]
    assert kinds == sorted(kinds)


def test_a_function_is_updated_after_those_that_read_what_it_writes() -> None:
    """Whoever reads must know what is new in it before anybody writes it."""
    topology = load_topology(TOPOLOGY)
    assert next(iter(topology.functions)).endswith("sequencer"), "not as they are declared"
    none = diff(topology.only_functions(), Actual())
    created = [change.name for change in none if change.kind == "function"]
    deployed = Actual(
        functions={
            name: FunctionState(name, echo(spec), spec.parallelism, spec.parallelism)
            for name, spec in topology.functions.items()
        }
    )
    changes = diff(topology.only_functions().with_bundle(Bundle("b.zip", "bb", b"")), deployed)
    updated = [change.name for change in changes if change.action == "update"]
    assert updated == created
    assert [name.rsplit("/", 1)[1] for name in updated] == ["distributor", "conflator", "sequencer"]


@given(function_specs("one/alpha/f"))
def test_what_pulsar_echoes_equals_what_was_sent(spec: FunctionSpec) -> None:
    assert attributes_of(echo(spec)) == attributes_of(pulsar_config(spec))


def a_topology(partitions: int = 4, *, keyed: bool = True) -> tuple[Topology, str]:
    topic = "persistent://one/alpha/events"
    return (
        Topology(
            partitions,
            {},
            {"one/alpha": Namespace("one/alpha", dynamic_topics="view-*")},
            {topic: Topic(topic, partitions, keyed)},
            {},
        ),
        topic,
    )


def a_cluster(topic: str, partitions: int) -> Actual:
    return Actual(namespaces={"one/alpha": {}}, topics={topic: TopicState(topic, partitions)})


def test_more_partitions_of_a_keyed_topic_are_refused_with_the_procedure() -> None:
    desired, topic = a_topology(8)
    (change,) = diff(desired, a_cluster(topic, 4))
    assert change.action == "refuse"
    assert "grow --partitions 8" in change.reason
    assert [(each.name, each.old, each.new) for each in change.attributes] == [("partitions", 4, 8)]


def test_more_partitions_of_a_topic_that_is_not_keyed_are_an_update() -> None:
    desired, topic = a_topology(8, keyed=False)
    (change,) = diff(desired, a_cluster(topic, 4))
    assert change.action == "update"


def test_fewer_partitions_and_another_kind_of_topic_are_refused() -> None:
    for keyed in (True, False):
        desired, topic = a_topology(2, keyed=keyed)
        assert [each.action for each in diff(desired, a_cluster(topic, 4))] == ["refuse"]
        assert [each.action for each in diff(desired, a_cluster(topic, 0))] == ["refuse"]


def test_a_deleted_partition_is_drift() -> None:
    desired, topic = a_topology(4)
    state = TopicState(topic, 4, (2,))
    (change,) = diff(desired, Actual(namespaces={"one/alpha": {}}, topics={topic: state}))
    assert change.action == "update"
    assert change.attributes[0].name == "missing_partitions"


def test_topics_of_the_control_plane_are_neither_drift_nor_pruned() -> None:
    desired, topic = a_topology(4)
    view, stray = "persistent://one/alpha/view-12", "persistent://one/alpha/stray"
    topics = {name: TopicState(name, 4) for name in (topic, view, stray)}
    actual = Actual(namespaces={"one/alpha": {}}, topics=topics)
    assert diff(desired, actual) == []
    assert [each.name for each in diff(desired, actual, prune=True)] == [stray]
    assert view in [each.name for each in destruction(desired, actual)]


def a_function(**changes: object) -> FunctionSpec:
    spec = FunctionSpec(
        name="one/alpha/f",
        class_name="functions.a.A",
        parallelism=2,
        inputs=(Input("persistent://one/alpha/events", "functions.s.S", 10),),
        subscription="f",
        cpu=1.0,
        ram_bytes=1,
        disk_bytes=1,
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


def deployed(spec: FunctionSpec, running: int = 2) -> Actual:
    return Actual(
        subscriptions=frozenset({(each.topic, spec.subscription) for each in spec.inputs}),
        functions={spec.name: FunctionState(spec.name, echo(spec), 2, running)},
    )


def one(spec: FunctionSpec) -> Topology:
    return Topology(4, {}, {}, {}, {spec.name: spec})


def test_a_change_that_pulsar_cannot_update_replaces_the_function() -> None:
    for changes in (
        {"processing_guarantees": "ATLEAST_ONCE"},
        {"retain_ordering": False},
        {"subscription_position": "latest"},
    ):
        (change,) = diff(one(a_function()), deployed(a_function(**changes)))
        assert change.action == "replace"
        assert all(each.forces_replacement for each in change.attributes)
    assert summary([change]) == (1, 0, 1)


def test_a_function_that_does_not_run_everywhere_is_restarted() -> None:
    (change,) = diff(one(a_function()), deployed(a_function(), running=1))
    assert change.action == "restart"


def test_other_code_is_a_change_and_unknown_code_is_none() -> None:
    old = one(a_function()).with_bundle(Bundle("a.zip", "aa", b""))
    new = one(a_function()).with_bundle(Bundle("b.zip", "bb", b""))
    actual = deployed(old.functions["one/alpha/f"])
    (change,) = diff(new, actual)
    assert [(each.name, each.old, each.new) for each in change.attributes] == [
        ("user_config.bundle_digest", "aa", "bb")
    ]
    assert change.action == "update"
    assert diff(one(a_function()), actual) == []
    state = replace(actual.functions["one/alpha/f"], code_is_fixed=True)
    (change,) = diff(new, replace(actual, functions={"one/alpha/f": state}))
    assert change.action == "replace"
