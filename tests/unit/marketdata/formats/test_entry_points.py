"""Formats of installed packages: found, checked, delivered; what fails stops no other."""

import importlib
import logging
import shutil
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pytest
from events import trades
from hypothesis import HealthCheck, given, settings

from functions.operators.render import render
from marketdata.delivered_frames import decode_payload
from marketdata.formats import FormatError, format_of_view, formats, get_format, registry
from marketdata.formats.registry import BUILT_IN, GROUP, SHIPPED, load_formats
from marketdata.plans import Delivery, ViewSpec, view_of

sys.path.insert(0, str(Path(__file__).parents[1] / "filters"))

from strategies import batches

EXAMPLE = Path(__file__).parents[4] / "docs" / "examples" / "custom_format"
GOOD = """
class Good:
    name = "good"
    media_type = "text/plain"
    description = "Each message says hello."
    max_rows = 10
    renames = True
    def encode(self, batch, compression="none"): return b"hello"
    def decode(self, data, schema=None): return None
    def no_events(self): return b""
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages; what is installed is looked for again, also afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    registry._load_installed.cache_clear()
    loaded = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - loaded:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    registry._load_installed.cache_clear()


def install(site: Path, name: str, points: dict[str, str], sources: dict[str, str]) -> None:
    """What pip leaves behind of a package: its modules and its metadata."""
    for file, text in sources.items():
        (site / file).write_text(text)
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"[{GROUP}]", *(f"{point} = {value}" for point, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    importlib.invalidate_caches()
    registry._load_installed.cache_clear()


@pytest.fixture
def example(site: Path) -> None:
    """The package of docs/formats.md, installed."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    install(site, project["name"], project["entry-points"][GROUP], {})
    shutil.copy(EXAMPLE / "tsv_format.py", site)


@pytest.mark.usefixtures("example")
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(batches(finite=True))
def test_the_documented_example_is_delivered_exactly(batch: pa.RecordBatch) -> None:
    for delivery in (Delivery(), Delivery(compression="zstd")):
        data = render(view_of(ViewSpec(format="tsv", delivery=delivery)), batch).messages[0]
        back = get_format("tsv").decode(data)
        assert back.schema.equals(batch.schema, check_metadata=True)
        for column, before in zip(back.columns, batch.columns, strict=True):
            if pa.types.is_timestamp(column.type):
                column, before = column.view(pa.int64()), before.view(pa.int64())  # noqa: PLW2901
            assert column.to_pylist() == before.to_pylist()


@pytest.mark.usefixtures("example")
def test_installed_formats_stand_behind_those_that_are_built_in() -> None:
    names = list(formats())
    assert names[: len(BUILT_IN)] == [one.name for one in BUILT_IN]
    assert names[-1] == "tsv"


BROKEN = {
    "absent": ("nowhere_at_all:Format", "ModuleNotFoundError"),
    "leaves": ("leaving:Format", "SystemExit: for good"),
    "raises": ("raising:Format", "RuntimeError: not today"),
    "unnamed": ("sources_of_formats:Good", "its `name` must be 'unnamed'"),
    "no Name": ("sources_of_formats:Good", "is no name"),
    "greedy": (
        "sources_of_formats:Greedy",
        "its `max_rows` must be a whole number from 8 to 32,768",
    ),
    "tiny": ("sources_of_formats:Tiny", "its `max_rows` must be a whole number from 8 to 32,768"),
    "mute": ("sources_of_formats:Mute", "its `description` must be a text"),
    "texts": ("sources_of_formats:Texts", "must give bytes"),
    "json": ("sources_of_formats:Json", "the name 'json' is taken"),
}
SOURCES = f"""
{GOOD}
class Greedy(Good):
    name, max_rows = "greedy", 1_000_000
class Tiny(Good):
    name, max_rows = "tiny", 7
class Mute(Good):
    name, description = "mute", ""
class Texts(Good):
    name = "texts"
    def no_events(self): return ""
class Json(Good):
    name = "json"
"""


def test_what_fails_is_refused_with_its_reason_and_stops_no_other(
    site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    points = {name: value for name, (value, _) in BROKEN.items()}
    sources = {"sources_of_formats.py": SOURCES, "raising.py": "raise RuntimeError('not today')"}
    sources["leaving.py"] = "raise SystemExit('for good')"
    install(site, "broken", points | {"good": "sources_of_formats:Good"}, sources)
    with caplog.at_level(logging.WARNING, "marketdata.formats"):
        assert list(formats()) == [*(one.name for one in (*BUILT_IN, *SHIPPED)), "good"]
        assert get_format("good").encode(None) == b"hello"
        assert get_format("json") is BUILT_IN[1]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == len(BROKEN)
    for name, (value, reason) in BROKEN.items():
        (line,) = [line for line in told if line.startswith(f"format {name!r} ")]
        assert value in line
        assert reason in line
    with pytest.raises(FormatError, match=r"'raises' \(raising:Format: RuntimeError: not today\)"):
        get_format("raises")


def test_a_package_that_asks_for_formats_while_it_is_loaded_is_told_of_the_built_in_ones(
    site: Path,
) -> None:
    asking = f"""
from marketdata.formats import formats, get_format
{GOOD}
    def __init__(self):
        self.seen, self.json = list(formats()), get_format("json")
"""
    install(site, "asking", {"good": "asking:Good"}, {"asking.py": asking})
    loader = Thread(target=formats, daemon=True)
    loader.start()
    loader.join(timeout=30)
    assert not loader.is_alive()
    good: Any = get_format("good")
    assert good.seen == [one.name for one in BUILT_IN]
    assert good.json is BUILT_IN[1]
    assert "good" in formats()


def test_the_first_of_two_entry_points_of_one_name_is_kept(site: Path) -> None:
    install(site, "first", {}, {"one.py": GOOD, "two.py": GOOD})
    points = [EntryPoint("good", f"{module}:Good", GROUP) for module in ("one", "two")]
    loaded = load_formats((), points)
    assert type(loaded.by_name["good"]).__module__ == "one"
    assert loaded.refused == {"good": "two:Good: the name 'good' is taken; choose another"}


def test_a_view_in_a_format_that_is_not_there_refuses_frames_and_nothing_else() -> None:
    missing = format_of_view("nope")
    assert missing.no_events() == b""
    assert missing.max_rows == 32_768
    for refuse in (lambda: missing.encode(None), lambda: missing.decode(b"")):
        with pytest.raises(FormatError, match="unknown format 'nope'; formats are: arrow"):
            refuse()


def test_a_format_that_gives_no_bytes_is_refused_when_it_renders(site: Path) -> None:
    install(site, "wrong", {"good": "wrong:Good"}, {"wrong.py": GOOD.replace('b"hello"', '"hi"')})
    with pytest.raises(FormatError, match="'good' gave str, not bytes"):
        render(view_of(ViewSpec(format="good")), trades(["A"]))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return {}['a']", "format 'good' failed: KeyError: 'a'"),
        ("raise ZeroDivisionError('by 0')", "format 'good' failed: ZeroDivisionError: by 0"),
        ("return None", "format 'good' gave NoneType, not a record batch"),
    ],
)
def test_a_format_that_fails_to_decode_is_refused_as_a_payload(
    site: Path, body: str, reason: str
) -> None:
    source = GOOD.replace("schema=None): return None", f"schema=None): {body}")
    install(site, "wrong", {"good": "wrong:Good"}, {"wrong.py": source})
    with pytest.raises(FormatError, match=reason):
        decode_payload(b"x", {"format": "good", "kind": "trade"})
