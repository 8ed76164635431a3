"""The plot of a report: panels one below the other, written as PNG or SVG by the file's ending."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

PANEL_INCHES: Final = (9.0, 3.4)


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram.

    Attributes:
        lines: label -> (x values, y values).
        stacks: part -> height in each of `bars`, from the bottom up.
    """

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    bars: Sequence[str] = ()
    stacks: Mapping[str, Sequence[float]] = field(default_factory=dict)
    log_y: bool = False


def draw(panels: Sequence[Panel], title: str, file: Path) -> None:
    """Write all panels to one file. Needs no display."""
    # Costs a second and tens of megabytes: only who wants a plot pays for it.
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib.figure import Figure  # noqa: PLC0415

    width, height = PANEL_INCHES
    figure = Figure(figsize=(width, height * len(panels)), layout="constrained")
    figure.suptitle(title)
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(len(panels), 1, number)
        axes.set_title(panel.title, fontsize="medium")
        axes.set_xlabel(panel.x_label)
        axes.set_ylabel(panel.y_label)
        for label, (xs, ys) in panel.lines.items():
            axes.plot(xs, ys, label=label)
        bottom = [0.0] * len(panel.bars)
        for part, heights in panel.stacks.items():
            axes.bar(panel.bars, heights, bottom=bottom, label=part, width=0.6)
            bottom = [below + each for below, each in zip(bottom, heights, strict=True)]
        if panel.log_y:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(file)
