"""Growing partitions: what grows in which order, and what becomes of the YAML."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.topology import (
    Actual,
    GrowError,
    Topology,
    TopologyError,
    grown_texts,
    growth,
    load_topology,
)
from control_plane.topology.model import TopicState

TOPOLOGY = Path(__file__).resolve().parents[3] / "topology"
VIEW = "persistent://marketdata/delivery/view-1"
FOREIGN = "persistent://marketdata/delivery/by-hand"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for file in TOPOLOGY.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path


@pytest.fixture
def topology() -> Topology:
    return load_topology(TOPOLOGY)


def _cluster(topology: Topology, partitions: int, **others: int) -> Actual:
    """Every partitioned topic with so many partitions; `others` by the topic's id."""
    topics = {
        name: TopicState(name, topic.partitions and others.get(topic_id, partitions))
        for topic_id, name in topology.topic_names.items()
        for topic in [topology.topics[name]]
    }
    for name in (VIEW, FOREIGN):
        topics[name] = TopicState(name, partitions)
    return Actual(topics=topics)


def _texts(folder: Path) -> dict[Path, str]:
    return {path: path.read_text() for path in folder.glob("*.yaml")}


def test_what_events_reach_last_grows_first_and_they_are_drained_on_their_way(
    topology: Topology,
) -> None:
    found = growth(topology, _cluster(topology, 4), 8)
    names = topology.topic_names
    assert (found.old, found.new) == (4, 8)
    assert found.topics[0] == VIEW
    assert found.topics[-2:] == (names["sequenced"], names["ingest"])
    partitioned = {name for name, topic in topology.topics.items() if topic.partitions}
    assert set(found.topics) == partitioned | {VIEW}  # neither plain topics nor others' ones
    assert found.drained == (names["ingest"], names["sequenced"], VIEW)


def test_an_interrupted_growth_goes_on_with_the_count_that_the_functions_run_with(
    topology: Topology,
) -> None:
    cluster = _cluster(topology, 8, ingest=4)
    found = growth(topology, cluster, 8)
    assert (found.old, found.topics) == (4, (topology.topic_names["ingest"],))
    found = growth(topology, _cluster(topology, 8), 8)
    assert (found.old, found.topics) == (4, ())


def test_partitions_cannot_be_taken_away(topology: Topology) -> None:
    with pytest.raises(GrowError, match="4 partitions already"):
        growth(topology, _cluster(topology, 4), 2)
    with pytest.raises(GrowError, match="16 partitions already"):
        growth(topology, _cluster(topology, 16), 8)


def test_a_topology_that_is_not_applied_cannot_grow(topology: Topology) -> None:
    with pytest.raises(GrowError, match="apply"):
        growth(topology, Actual(), 8)


@pytest.mark.parametrize("times", [1, 2])
def test_the_yaml_gets_count_and_floor_and_keeps_all_else(folder: Path, times: int) -> None:
    before = _texts(folder)
    for n in range(1, times + 1):
        for path, text in grown_texts(_texts(folder), 4 << n, 1 + n, f'time "{n}": yes').items():
            path.write_text(text)
    grown = load_topology(folder)
    assert (grown.partitions, grown.epoch_floor) == (4 << times, 1 + times)
    sequencer = grown.functions["marketdata/functions/sequencer"]
    floor = {"floor": 1 + times, "reason": f'time "{times}": yes'}
    assert sequencer.user_config["epoch"] == floor
    for path, text in _texts(folder).items():
        kept = [line for line in text.splitlines() if not line.startswith(("epoch:", "partit"))]
        lines = [line for line in before[path].splitlines() if not line.startswith("partitions")]
        assert kept == lines


def test_an_epoch_in_block_form_and_in_another_file_is_replaced(folder: Path) -> None:
    other = folder / "epochs.yaml"
    other.write_text("epoch:\n  floor: 3\n  reason: by hand\n# end\n")
    assert load_topology(folder).epoch_floor == 3
    for path, text in grown_texts(_texts(folder), 8, 4, "grown").items():
        path.write_text(text)
    assert load_topology(folder).epoch_floor == 4
    assert other.read_text() == "# end\n"


@given(st.text(min_size=1, max_size=40))
def test_any_reason_survives(reason: str) -> None:
    path = Path("topics.yaml")
    (text,) = grown_texts({path: "partitions: 4"}, 8, 2, reason).values()
    assert text.startswith("partitions: 8\nepoch: {floor: 2, reason: ")


def test_a_topology_without_a_line_of_partitions_is_refused() -> None:
    with pytest.raises(GrowError, match="partitions"):
        grown_texts({Path("a.yaml"): "topics: {}\n"}, 8, 2, "grown")


@pytest.mark.parametrize(
    ("epoch", "problem"),
    [
        ("{floor: 0, reason: x}", "least epoch"),
        ("{floor: 2}", "'reason' is missing"),
        ("{floor: 2, reason: x, since: 3}", "unknown key 'since'"),
    ],
)
def test_a_malformed_floor_is_refused_with_its_place(
    folder: Path, epoch: str, problem: str
) -> None:
    path = folder / "epochs.yaml"
    path.write_text(f"epoch: {epoch}\n")
    with pytest.raises(TopologyError, match=problem):
        load_topology(folder)


def test_a_floor_is_declared_once(folder: Path) -> None:
    for n in (2, 3):
        (folder / f"epochs-{n}.yaml").write_text(f"epoch: {{floor: {n}, reason: x}}\n")
    with pytest.raises(TopologyError, match="declared already"):
        load_topology(folder)
