"""The one style of every figure. matplotlib is loaded only when something is drawn."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#edae49", "#6a4c93", "#00798c", "#8d6a4f", "#5c677d")
"""Told apart by people with the common colour deficiencies when used in this order."""

STYLE: dict[str, Any] = {
    "figure.dpi": 120,
    "figure.figsize": (7.0, 4.3),
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "font.size": 10,
    # Names come from users: a dollar sign in one is no formula.
    "text.parse_math": False,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
}


class Drawing:
    """A figure with its axes; ``png`` holds the picture once the ``draw`` block has ended."""

    def __init__(self, figure: "Figure", axes: "Any") -> None:
        self.figure = figure
        self.axes = axes
        self.png = b""

    @property
    def ax(self) -> "Axes":
        """The axes of a figure that has only one."""
        only: Axes = self.axes
        return only


def logarithmic(axes: "Axes", which: str = "xy") -> None:
    """Axes logarithmic, with plain numbers at the powers of ten; matplotlib's own labels are formulas."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    for name in which:
        axes.set(**{f"{name}scale": "log"})
        axis = getattr(axes, f"{name}axis")
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def describe(axes: "Axes", x: str, y: str = "", title: str = "", *, legend: float = 8, **limits: Any) -> None:
    """Name the axes, set their limits, and list what is drawn in a legend of this font size."""
    axes.set(xlabel=x, ylabel=y, title=title, **limits)
    axes.legend(fontsize=legend)


@contextmanager
def draw(rows: int = 1, columns: int = 1, **options: Any) -> Iterator[Drawing]:
    """Draw in the shared style, without a display.

    Args:
        rows: panels from top to bottom.
        columns: panels from left to right.
        options: passed to ``matplotlib.figure.Figure.subplots``.
    """
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {**STYLE, "axes.prop_cycle": cycler(color=COLOURS)}
    with matplotlib.rc_context(style):
        width, height = STYLE["figure.figsize"]
        figure = Figure(figsize=(width * (1 + 0.75 * (columns - 1)), height * (1 + 0.85 * (rows - 1))))
        drawing = Drawing(figure, figure.subplots(rows, columns, **options))
        yield drawing
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        drawing.png = buffer.getvalue()
