"""What the stack decides without starting anything."""

import hashlib
import io
import socket
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.devstack import archive
from scripts.devstack.archive import Distribution, maven_mirror
from scripts.devstack.console import Console
from scripts.devstack.errors import ComponentError, StackError, UsageError, tail
from scripts.devstack.external import External
from scripts.devstack.fingerprint import fingerprint
from scripts.devstack.java import parse_version
from scripts.devstack.logs import LogSince, log_files
from scripts.devstack.ports import choose, is_free
from scripts.devstack.pulsar import with_properties

OWN = {
    "pulsar": {"service_url": "pulsar://127.0.0.1:6650", "admin_url": "http://127.0.0.1:8080"},
    "postgresql": {"url": "postgresql://dds@127.0.0.1:15432/dds"},
}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_392"', 8),
        ('openjdk version "25" 2025-09-16', 25),
        ('openjdk version "21-internal"', 21),
        ("bash: java: not found", None),
    ],
)
def test_java_versions_are_read_as_java_prints_them(text: str, version: int | None) -> None:
    assert parse_version(text) == version


def test_properties_are_replaced_in_place_and_appended_on_a_line_of_their_own() -> None:
    text = "# a=comment\na=1\nb=2\nlast=kept"  # no newline at the end, as Pulsar ships it
    result = with_properties(text, {"a": "9", "new": "x"})
    assert result == "# a=comment\na=9\nb=2\nlast=kept\nnew=x\n"


def test_a_property_given_twice_is_set_once() -> None:
    assert with_properties("a=1\na=2\n", {"a": "3"}) == "a=3\n"


def test_a_taken_port_is_passed_over() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not is_free(port)
        assert choose([port], set()) > port


def test_a_port_given_to_another_component_is_passed_over() -> None:
    first = choose([21650], set())
    assert choose([21650], {first}) != first


def test_nothing_is_external_in_a_plain_environment() -> None:
    assert External.read(OWN, {}) == External()


def test_the_users_servers_are_external() -> None:
    environment = {
        "DDS_PULSAR_SERVICE_URL": "pulsar://broker:6650",
        "DDS_PULSAR_ADMIN_URL": "http://broker:8080",
        "DDS_DATABASE_URL": "postgresql://me@db/x",
    }
    assert External.read(OWN, environment) == External(*environment.values())


def test_the_stacks_own_addresses_are_not_external() -> None:
    environment = {
        "DDS_PULSAR_SERVICE_URL": OWN["pulsar"]["service_url"],
        "DDS_PULSAR_ADMIN_URL": OWN["pulsar"]["admin_url"],
        "DDS_DATABASE_URL": OWN["postgresql"]["url"],
    }
    assert External.read(OWN, environment) == External()


def test_half_a_broker_is_refused_with_the_name_of_the_missing_half() -> None:
    with pytest.raises(UsageError, match="DDS_PULSAR_ADMIN_URL is missing"):
        External.read({}, {"DDS_PULSAR_SERVICE_URL": "pulsar://broker:6650"})


def test_a_fingerprint_changes_with_content_name_and_target(tmp_path: Path) -> None:
    source = tmp_path / "a.py"
    source.write_text("1")
    before = fingerprint([tmp_path])
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("compiled")
    assert fingerprint([tmp_path]) == before
    assert fingerprint([tmp_path], also=["elsewhere"]) != before
    source.write_text("2")
    changed = fingerprint([tmp_path])
    assert changed != before
    source.rename(tmp_path / "b.py")
    assert fingerprint([tmp_path]) not in {before, changed}


def test_the_users_maven_mirror_is_honoured(tmp_path: Path) -> None:
    settings = tmp_path / "settings.xml"
    settings.write_text(
        '<settings xmlns="http://maven.apache.org/SETTINGS/1.0.0"><mirrors>'
        "<mirror><mirrorOf>other</mirrorOf><url>https://no.example/</url></mirror>"
        "<mirror><mirrorOf>external:*,!x</mirrorOf><url>https://yes.example/m/</url></mirror>"
        "</mirrors></settings>"
    )
    assert maven_mirror(settings) == "https://yes.example/m"
    assert maven_mirror(tmp_path / "absent.xml") is None


def test_a_failure_names_component_log_and_next_step(tmp_path: Path) -> None:
    log = tmp_path / "pulsar.log"
    log.write_text("first\nthe reason\n")
    report = ComponentError("pulsar", "it ended", log=log, hint="do this").report()
    assert report.splitlines() == [
        "error: pulsar: it ended",
        f"log: {log}",
        "  | first",
        "  | the reason",
        "what to do: do this",
    ]


def test_tail_gives_the_last_lines_of_a_large_file(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("".join(f"line {number}\n" for number in range(50_000)))
    assert tail(log, 2) == ["line 49998", "line 49999"]
    assert tail(log, 0) == []


def test_logs_are_found_by_component_and_by_function(tmp_path: Path) -> None:
    function = tmp_path / "functions" / "marketdata" / "functions" / "sequencer"
    function.mkdir(parents=True)
    for path in (
        tmp_path / "pulsar.log",
        function / "sequencer-0.log",
        function / "sequencer-1.log",
    ):
        path.touch()
    assert set(log_files(tmp_path, None)) == {"pulsar", "sequencer-0", "sequencer-1"}
    assert set(log_files(tmp_path, "sequencer")) == {"sequencer-0", "sequencer-1"}
    with pytest.raises(StackError, match="no log of 'nothing'"):
        log_files(tmp_path, "nothing")


def test_only_what_is_added_to_a_log_counts(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("lost\n")
    since = LogSince(log)
    assert since.count(b"lost") == 0
    with log.open("a") as file:
        file.write("lost\nfound\nlo")
        file.flush()
        assert since.count(b"lost") == 1
        file.write("st\n")
    assert since.count(b"lost") == 2
    assert since.count(b"lost") == 2


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distribution:
    """A distribution as Maven has PostgreSQL: a jar with a tar of several folders in it."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:xz") as tar:
        for name in ("bin/postgres", "lib/libssl.so"):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    jar = tmp_path / "postgresql.jar"
    with zipfile.ZipFile(jar, "w") as file:
        file.writestr("META-INF/MANIFEST.MF", "")
        file.writestr("postgres-linux-x86_64.txz", content.getvalue())
    monkeypatch.setattr(archive, "_download", lambda *_: jar)
    digest = hashlib.sha256(jar.read_bytes()).hexdigest()
    return replace(archive._postgresql("Linux", "x86_64"), sha256=digest)


def test_a_distribution_is_unpacked_into_the_cache_once(
    packed: Distribution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    home = archive.unpacked(packed, Console(quiet=True), cache)
    assert (home / "bin" / "postgres").read_text() == "bin/postgres"
    assert (home / "lib" / "libssl.so").exists()
    assert sorted(path.name for path in cache.iterdir()) == sorted([home.name, "postgresql.lock"])
    monkeypatch.delattr(archive, "_download")
    assert archive.unpacked(packed, Console(quiet=True), cache) == home


def test_what_is_not_the_known_distribution_is_not_unpacked(
    packed: Distribution, tmp_path: Path
) -> None:
    other = replace(packed, sha256="0" * 64)
    with pytest.raises(ComponentError, match=f"instead of {'0' * 64}"):
        archive.unpacked(other, Console(quiet=True), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("postgresql-*"))


@pytest.mark.parametrize("system", ["Linux", "Darwin"])
@pytest.mark.parametrize("machine", ["x86_64", "arm64"])
def test_there_is_a_postgresql_with_tls_for_usual_machines(system: str, machine: str) -> None:
    distribution = archive._postgresql(system, machine)
    assert system.lower() in distribution.artifact


def test_where_there_is_no_postgresql_with_tls_it_is_said() -> None:
    with pytest.raises(ComponentError, match="no PostgreSQL with TLS for Linux on riscv64"):
        archive._postgresql("Linux", "riscv64")
