"""Plots are drawn without a display, in the form that the file's ending asks for."""

from pathlib import Path

import pytest

from benchmarks.plotting import Panel, draw

PANELS = [
    Panel(
        "over time", "s", "events/s", {"run 1": ([0.0, 1.0], [5.0, 6.0]), "run 2": ([0.0], [1.0])}
    ),
    Panel("latency", "percentile", "ms", {"run 1": ([0.0, 50.0], [1.0, 100.0])}, log_y=True),
    Panel("CPU", "", "s", bars=["run 1", "run 2"], stacks={"a": [1.0, 2.0], "b": [0.5, 0.5]}),
]


@pytest.mark.parametrize(("ending", "begins"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_panels_become_one_picture(tmp_path: Path, ending: str, begins: bytes) -> None:
    file = tmp_path / f"plot.{ending}"
    draw(PANELS, "title", file)
    assert file.read_bytes().startswith(begins)
    if ending == "svg":
        assert all(f"<!-- {panel.title} -->".encode() in file.read_bytes() for panel in PANELS)
