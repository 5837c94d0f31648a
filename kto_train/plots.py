"""The curves of a training as pictures: one a panel, and all in `overview.png`. The home of matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kto_data.writing import whole_file
from kto_train.metrics import Entry, curves_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FOLDER = "plots"
OVERVIEW = "overview.png"

_SIZE = (6, 3.6)  # inches, of one panel
_COLUMNS = 3  # of the overview
_COLOURS = {"desirable": "#2f6fb4", "undesirable": "#bd5518", "eval": "#bd5518"}  # as in reports
_DOTS_UP_TO = 100  # points; more of them would be a thick line

Curves = dict[str, list[tuple[int, float]]]


def plot_metrics(entries: list[Entry], folder: Path) -> None:
    """Draw loss, rewards, margin, KL, learning rate and gradient norm over steps; nothing where nothing was logged."""
    panels = curves_of(entries)
    if not panels:
        return
    folder.mkdir(exist_ok=True)
    for title, curves in panels.items():
        _draw({title: curves}, folder / f"{title.lower().replace(' ', '_')}.png")
    _draw(panels, folder / OVERVIEW)


def _draw(panels: dict[str, Curves], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(_SIZE[0] * columns * 0.7, _SIZE[1] * rows * 0.85), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, curves) in enumerate(panels.items(), start=1):
        _draw_panel(figure.add_subplot(rows, columns, place), title, curves)
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=110)


def _draw_panel(axes: Axes, title: str, curves: Curves) -> None:
    for name, points in curves.items():
        steps, values = zip(*points, strict=True)
        marker = "." if len(points) <= _DOTS_UP_TO else None
        axes.plot(steps, values, marker=marker, label=name, color=_COLOURS.get(name))
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend()
