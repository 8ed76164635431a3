"""What the images and compose.yaml rest on: locks, secrets, and configuration files."""

import importlib.util
import re
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from scripts.container_credentials import RECIPIENTS
from scripts.container_secrets import make_secrets
from scripts.devstack import secure_broker

CHECKOUT = Path(__file__).resolve().parents[3]
CLUSTER = CHECKOUT / "compose.cluster.yaml"
LOCKS = sorted((CHECKOUT / "containers").glob("*.lock"))
REQUIREMENT = re.compile(
    r"^([a-zA-Z0-9._-]+)(?:\[[^]]*\])?==(\S+)(?: ; ([^\\]+?))? \\$", re.MULTILINE
)


def pins(path: Path) -> dict[str, set[str]]:
    """Package -> versions."""
    found: dict[str, set[str]] = {}
    for name, version, _ in REQUIREMENT.findall(path.read_text()):
        found.setdefault(name, set()).add(version)
    return found


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    # It stands beside it in the image.
    monkeypatch.setitem(sys.modules, "secure_broker", secure_broker)
    spec = importlib.util.spec_from_file_location("serve", CHECKOUT / "containers/pulsar/serve.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_an_images_dependencies_are_those_of_the_project(lock: Path) -> None:
    project, image = pins(CHECKOUT / "requirements.lock"), pins(lock)

    assert len(image) > 10
    for name, versions in image.items():
        assert versions <= project.get(name, set()), name


def test_secrets_are_made_once_and_only_their_owner_reaches_them(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"

    assert make_secrets(folder) == ["postgres-password", "pg_service.conf"]
    before = {path.name: path.read_text() for path in folder.iterdir()}
    assert make_secrets(folder) == []

    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    assert len(before["postgres-password"]) >= 32
    assert f"password={before['postgres-password']}\n" in before["pg_service.conf"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_configuration_file_has_each_value_once(serve: ModuleType) -> None:
    text = "a=1\n# b=2\nb=3\nb=4\n#c=5\nlast=6"

    assert serve.replaced(text, {"b": "x=y", "c": "new"}, "=") == (
        "a=1\n# b=2\nb=x=y\n#c=5\nlast=6\nc=new\n"
    )


def test_a_yaml_file_keeps_what_is_nested(serve: ModuleType) -> None:
    text = "port: 1\nfactory:\n    port: 2\n"

    assert serve.replaced(text, {"port": "3", "flag": "false"}, ": ") == (
        "port: 3\nfactory:\n    port: 2\nflag: false\n"
    )
    assert serve.replaced(f"{text}next: 4\n", {"factory": '{"port": 5}'}, ": ") == (
        'port: 1\nfactory: {"port": 5}\nnext: 4\n'
    )


def test_a_cluster_confirms_with_fewer_copies_than_it_keeps_where_it_is_told_so(
    serve: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CLUSTER", "METADATA_STORE", "HOST", "DATA_HOST", "PUBLIC_ADDRESS"):
        monkeypatch.setenv(f"DDS_{name}", name.lower())
    monkeypatch.setenv("DDS_REPLICAS", "2")
    quorums = [f"managedLedgerDefault{each}" for each in ("EnsembleSize", "WriteQuorum")]

    for acknowledged, expected in ((None, "2"), ("1", "1")):
        if acknowledged:
            monkeypatch.setenv("DDS_ACK_QUORUM", acknowledged)
        settings = serve.broker()
        assert [settings[each] for each in quorums] == ["2", "2"]
        assert settings["managedLedgerDefaultAckQuorum"] == expected


def test_a_worker_by_itself_is_told_where_the_brokers_are(
    serve: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        "DDS_CLUSTER": "dds",
        "DDS_METADATA_STORE": "metadata:2181",
        "DDS_HOST": "worker.admin",
        "DDS_REPLICAS": "2",
        "DDS_BROKER": "brokers.admin",
        "DDS_BROKER_DATA": "brokers.data",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)

    settings = serve.worker(inside_broker=False)

    assert settings["pulsarServiceUrl"] == "pulsar+ssl://brokers.data:6650"
    assert settings["pulsarWebServiceUrl"] == "https://brokers.admin:8080"
    assert (settings["workerPort"], settings["workerPortTls"]) == (None, 6750)
    assert settings["authenticationEnabled"] == settings["authorizationEnabled"] == "true"
    assert settings["properties"]["tokenPublicKey"] == "file:///credentials/token-key.der"


def test_no_port_of_a_broker_is_without_tls(
    serve: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CLUSTER", "METADATA_STORE", "HOST", "DATA_HOST", "PUBLIC_ADDRESS", "REPLICAS"):
        monkeypatch.setenv(f"DDS_{name}", name.lower())

    settings = serve.broker()

    assert settings["brokerServicePort"] == settings["webServicePort"] == ""
    assert {
        address.split(":", 1)[1].partition(":")[0]
        for name in ("bindAddresses", "advertisedListeners")
        for address in settings[name].split(",")
    } == {"pulsar+ssl"}
    assert settings["authenticationEnabled"] == settings["authorizationEnabled"] == "true"


def test_every_way_in_the_compose_files_is_encrypted() -> None:
    for path in (CHECKOUT / "compose.yaml", CHECKOUT / "compose.cluster.yaml"):
        text = re.sub(r"http://127\.0\.0\.1:9090", "", path.read_text())  # Prometheus asks itself
        assert "http://" not in text
        assert "pulsar://" not in text
        assert text.count("DDS_AUTHENTICATION: required") == 1


def test_no_client_inside_the_cluster_names_a_broker_that_may_be_gone() -> None:
    """Of a list of which one name is unknown the client library reaches no topic."""
    services = yaml.safe_load(re.sub("!(override|reset)", "", CLUSTER.read_text()))["services"]
    values = [
        str(value)
        for service in services.values()
        for name, value in service.get("environment", {}).items()
        if name in {"DDS_BROKER", "DDS_BROKER_DATA", "DDS_PULSAR_SERVICE_URL"}
    ]
    hosts = {re.sub(r"^.*//|:\d+$", "", value) for value in values}

    assert hosts == {"brokers.admin", "brokers.data"}
    for broker in ("broker", "broker-2"):
        networks = services[broker]["networks"]
        assert hosts <= set(networks["admin"]["aliases"])
        assert "brokers.data" in networks["data"]["aliases"]
    assert hosts <= set(RECIPIENTS["broker"].hosts)


def test_the_demo_starts_without_a_control_plane_beside_it() -> None:
    """Its image has neither the package nor what that needs."""
    program = "import sys; sys.modules['control_plane'] = None; import scripts.demo"

    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 0, ended.stderr
