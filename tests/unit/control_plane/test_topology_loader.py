"""Topology files: what is wrong is named with its place and with what is allowed there."""

import shutil
from pathlib import Path

import pytest

from control_plane.topology import TopologyError, desired_functions, load_topology
from marketdata.ordering import SourcePolicy

TOPOLOGY = Path(__file__).resolve().parents[3] / "topology"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for file in TOPOLOGY.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path


def edit(folder: Path, file: str, old: str, new: str) -> None:
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def problems(folder: Path) -> list[str]:
    with pytest.raises(TopologyError) as caught:
        load_topology(folder)
    return [str(each).replace(f"{folder}/", "") for each in caught.value.problems]


def test_the_project_s_own_topology_loads_and_names_every_topic_once() -> None:
    topology = load_topology(TOPOLOGY)
    assert topology.topic_names["ingest"] == "persistent://marketdata/ingest/events"
    functions = desired_functions(topology)
    assert list(functions) == [
        "marketdata/functions/sequencer",
        "marketdata/functions/distributor",
        "marketdata/functions/conflator",
    ]
    for function in functions.values():
        assert function.user_config["partitions"] == topology.partitions
        assert set(function.user_config["topics"].values()) <= set(topology.topics)
        assert function.parallelism <= topology.partitions
    text = (TOPOLOGY / "topics.yaml").read_text()
    names = (topic.removeprefix("persistent://") for topic in topology.topics)
    assert all(text.count(f"name: {name}\n") == 1 for name in names)


def test_every_file_points_editors_to_the_schema() -> None:
    for file in TOPOLOGY.glob("*.yaml"):
        assert file.read_text().startswith("# yaml-language-server: $schema=schema.json\n")


def test_an_unknown_key_is_named_with_its_place_and_the_nearest_allowed_one(folder: Path) -> None:
    edit(folder, "namespaces.yaml", "message_ttl: 3d", "mesage_ttl: 3d")
    (problem,) = problems(folder)
    line = (folder / "namespaces.yaml").read_text().split("mesage_ttl")[0].count("\n") + 1
    assert problem.startswith(
        f"namespaces.yaml:{line}:7: namespaces.marketdata/delivery.policies.mesage_ttl: "
        "unknown key 'mesage_ttl'. Did you mean 'message_ttl'? Allowed: auto_subscription_creation"
    )


COPIES = """deduplication: true
      persistence: {ensemble: 1, write_quorum: 2, ack_quorum: 1, mark_delete_rate: 1.0}"""


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("namespaces.yaml", "time: 7d", "time: 7 days", "Allowed: a duration of whole minutes"),
        ("namespaces.yaml", "size: 10GiB", "size: 10GB", "Allowed: a size of whole MiB"),
        ("namespaces.yaml", "schema_compatibility: full", "schema_compatibility: ful", "'full'?"),
        ("namespaces.yaml", "deduplication: true", "deduplication: 1", "boolean: true:"),
        ("namespaces.yaml", "size: 8GiB", "size: 10GiB", "below the retention's size"),
        ("namespaces.yaml", "deduplication: true", COPIES, "ensemble >= write_quorum"),
        ("namespaces.yaml", "retention: {time: 1h, ", "retention: {", "'time' is missing"),
        ("namespaces.yaml", "  marketdata: {}", "  other: {}", "tenant 'marketdata' is not"),
        ("topics.yaml", "partitions: 4", "partitions: 0", "found 0. Allowed: integer: partition"),
        ("topics.yaml", "partitions: 4", "", "the key 'partitions' is missing"),
        ("topics.yaml", "marketdata/ingest/events", "marketdata/ingst/events", "'marketdata/inges"),
        ("topics.yaml", "marketdata/ingest/events", "events", "tenant/namespace/topic"),
        ("topics.yaml", "sequenced/events", "ingest/events", "is declared twice"),
        ("topics.yaml", "control/plans", "delivery/view-x", "dynamic topics"),
        ("functions.yaml", "inputs: [ingest]", "inputs: [ingst]", "Did you mean 'ingest'?"),
        (
            "functions.yaml",
            "state: sequencer-state",
            "state: nowhere",
            "Allowed: audit, confirmed, dead",
        ),
        ("functions.yaml", "parallelism: 2", "parallelism: 5", "Allowed: 1 to 4"),
        ("functions.yaml", "parallelism: 2", "parallelism: two", 'found "two". Allowed: integer'),
        ("functions.yaml", "log_level: info", "log_level: verbose", "debug, info, warning, error"),
        ("functions.yaml", "max_rows: 32768", "partitions: 32768", "from the rest of the topology"),
        ("functions.yaml", "max_rows: 32768", "max_rows: null", "found null"),
        ("functions.yaml", "  sequencer:", "  9sequencer:", "no good name"),
        ("functions.yaml", "inputs: [ingest]", "inputs: []", "at least one item"),
        ("functions.yaml", "inputs: [ingest]", "inputs: [ingest]\n    inputs: [x]", "stands twice"),
        ("functions.yaml", "functions:", "functions: [", "this is not YAML"),
        ("sources.yaml", "policy: pass", "policy: drop_repeat", "Did you mean 'drop_repeats'?"),
        ("sources.yaml", "{policy: pass}", "{hold_ms: 5}", "'policy' is missing"),
        ("sources.yaml", "pass}", "hold, hold_ms: 0}", "found 0. Allowed: integer: longest time"),
        ("sources.yaml", "pass}", "pass, hold_ms: 5}", "only the policy 'hold' has a hold_ms"),
        ("functions.yaml", "functions:", "tenants: {marketdata: {}}\nfunctions:", "declared alr"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(
    folder: Path, file: str, old: str, new: str, expected: str
) -> None:
    edit(folder, file, old, new)
    found = problems(folder)
    assert any(expected in each for each in found), found
    missing_entirely = new == ""
    assert missing_entirely or all(".yaml:" in each for each in found)


def test_the_policies_of_the_sources_reach_the_function_that_sequences(folder: Path) -> None:
    edit(
        folder, "sources.yaml", "  default: {policy: pass}", "  feed-*: {policy: hold, hold_ms: 50}"
    )
    topology = load_topology(folder)
    assert topology.sources == {"feed-*": SourcePolicy("hold", hold_ms=50)}
    functions = topology.functions
    config = functions["marketdata/functions/sequencer"].user_config
    assert config["sources"] == {"feed-*": {"policy": "hold", "hold_ms": 50}}
    assert "sources" not in functions["marketdata/functions/distributor"].user_config


def test_all_problems_are_reported_at_once(folder: Path) -> None:
    edit(folder, "functions.yaml", "log_level: info", "log_level: verbose")
    edit(folder, "topics.yaml", "partitions: 4", "partitions: many")
    assert len(problems(folder)) == 2


def test_an_empty_folder_and_a_missing_schema_say_what_to_do(folder: Path) -> None:
    (folder / "schema.json").unlink()
    assert "schema.json is missing" in problems(folder)[0]
    for file in folder.glob("*.yaml"):
        file.unlink()
    assert "no *.yaml files" in problems(folder)[0]


def test_a_file_that_is_no_mapping_or_no_text_is_refused(folder: Path) -> None:
    (folder / "list.yaml").write_text("- 1\n")
    assert "must be a mapping" in problems(folder)[0]
    (folder / "list.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not YAML" in problems(folder)[0]


LANE = """
  distributor-high:
    namespace: marketdata/functions
    class: functions.distributor.DistributorFunction
    operators: [route, transform, convert]
    lane: priority-3
    inputs: [sequenced]
    serde: functions.runtime.serde.BytesSerDe
"""


def with_lanes(folder: Path, *, instances: int = 1, **lanes: str) -> None:
    path = folder / "functions.yaml"
    added = (
        LANE.replace("distributor-high", name)
        .replace("priority-3", lane)
        .replace("lane:", f"parallelism: {instances}\n    lane:")
        for name, lane in lanes.items()
    )
    path.write_text(path.read_text() + "".join(added))


def test_a_function_with_a_lane_takes_its_views_from_the_distributor(folder: Path) -> None:
    lanes = {
        "distributor-high": "priority-3",
        "distributor-delayed": "delay-900",
        "distributor-prediction": "follows-analysis",
    }
    with_lanes(folder, instances=4, **lanes)
    topology = load_topology(folder)
    assert topology.lanes == {
        "": "marketdata/functions/distributor",
        "conflated": "marketdata/functions/conflator",
        "priority-3": "marketdata/functions/distributor-high",
        "delay-900": "marketdata/functions/distributor-delayed",
        "follows-analysis": "marketdata/functions/distributor-prediction",
    }
    assert topology.lane_subscriptions["follows-analysis"] == "distributor-prediction"
    functions = desired_functions(topology)
    usual, _, high, delayed, following = (functions[name] for name in topology.lanes.values())
    assert usual.user_config["elsewhere"] == sorted(topology.lanes.keys() - {""})
    assert (high.user_config["lane"], high.subscription) == ("priority-3", "distributor-high")
    # It takes over what the distributor served; a delay was served by nobody.
    assert high.subscription_position == "earliest"
    assert delayed.subscription_position == following.subscription_position == "latest"


def test_a_topology_without_lanes_says_nothing_of_them(folder: Path) -> None:
    path = folder / "functions.yaml"
    path.write_text(path.read_text().partition("  # Serves the views whose events wait")[0])
    topology = load_topology(folder)
    assert topology.lanes == {"": "marketdata/functions/distributor"}
    keys = {key for each in desired_functions(topology).values() for key in each.user_config}
    assert not keys & {"lane", "elsewhere"}


def test_two_functions_of_one_lane_are_refused(folder: Path) -> None:
    with_lanes(folder, one="priority-3", two="priority-3")
    (problem,) = problems(folder)
    assert "marketdata/functions/one serves the same views (priority-3)" in problem


def test_only_a_distributor_has_a_lane(folder: Path) -> None:
    inputs = "    inputs: [ingest]"
    edit(folder, "functions.yaml", inputs, f"{inputs}\n    lane: priority-2")
    (problem,) = problems(folder)
    assert "only a function with the operator 'route' has a lane" in problem


def test_the_example_of_lanes_fits_the_project_s_topology(folder: Path) -> None:
    for name in ("lanes.yaml", "follows.yaml"):
        shutil.copy(TOPOLOGY.parent / "docs" / "examples" / "lanes" / name, folder)
    lanes = {"", "conflated", "priority-3", "delay-900", "follows-market-analysis"}
    assert load_topology(folder).lanes.keys() == lanes


@pytest.mark.parametrize("lane", ["delay-2", "follows-analysis"])
def test_what_waits_has_an_instance_for_each_partition(folder: Path, lane: str) -> None:
    with_lanes(folder, late=lane)
    (problem,) = problems(folder)
    assert "an instance for each partition" in problem
    assert "Allowed: 4" in problem
