"""Figures for papers: rate-distortion curves, and BD-rate against time or multiplications.

Text stays text in PDF (TrueType, no Type 3 fonts), colours are those of Okabe and Ito, which stay
apart for the colour-blind, and markers and dashes repeat the distinction for print in grey. The
bytes of a file depend only on its content and on the version of matplotlib: no dates, no random
names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.path import Path as Outline
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from rhodec.evaluate.named_curves import METRICS, NamedCurve, points_of

CM_PER_INCH = 2.54
COLUMN_CM, PAGE_CM = 8.8, 18.1  # one and two columns of the field's journals
FORMATS = (".pdf", ".svg", ".png")

# Okabe and Ito, "Color universal design" (2008), without its yellow, which is faint on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9")
MARKERS = "os^Dv*Xph<>"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # the one that comes with matplotlib
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.6,
    "legend.frameon": True,
    "legend.framealpha": 1.0,
    "legend.edgecolor": "none",
    "legend.handlelength": 2.4,
    "legend.labelspacing": 0.3,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "rhodec",
}
# Corners in which a legend of rising curves may fit.
CORNERS = ("lower right", "upper left")


@dataclass(frozen=True)
class TradeOff:
    """A codec in a scatter plot: `cost` and its (low, high) over the rate points, BD-rate in %."""

    name: str
    cost: float
    cost_range: tuple[float, float]
    bd_rate: float


# ---- figures ------------------------------------------------------------------------------------


def rd_figure(
    curves: Sequence[NamedCurve],
    metrics: Sequence[str] = ("psnr-rgb",),
    *,
    width_cm: float | None = None,
    title: str | None = None,
    bpp_range: tuple[float, float] | None = None,
    log_rate: bool = False,
    labels: dict[str, str] | None = None,
) -> Figure:
    """One panel per metric with all curves that have it; published curves are dashed.

    `bpp_range` shows a part of the rates; without it published curves end where the measured ones
    do. `labels` renames curves. Raises `ValueError` for a panel that would be empty.
    """
    labels = labels or {}
    measured = [rate for c in curves if not c.is_published for rate in c.values["bpp"] if rate]
    if bpp_range is None and measured:
        bpp_range = (0.8 * min(measured) if log_rate else 0.0, 1.03 * max(measured))
    width = (width_cm or (COLUMN_CM if len(metrics) == 1 else PAGE_CM)) / CM_PER_INCH
    with rc_context(STYLE):
        fig = Figure(figsize=(width, 0.76 * width / len(metrics)), layout="constrained")
        FigureCanvasAgg(fig)
        panels = fig.subplots(1, len(metrics), squeeze=False)[0]
        for panel, metric in zip(panels, metrics, strict=True):
            _draw_curves(panel, curves, metric, bpp_range, labels)
            if log_rate:
                _log_axis(panel)
            panel.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
            panel.set_xlabel("Rate (bpp)")
            panel.set_ylabel(METRICS[metric])
        if title:
            fig.suptitle(title, fontsize=9)
        _place_legend(fig, list(panels))
    return fig


def trade_off_figure(
    points: Sequence[TradeOff],
    cost_label: str,
    anchor: str,
    metric: str,
    *,
    width_cm: float | None = None,
    title: str | None = None,
    labels: dict[str, str] | None = None,
) -> Figure:
    """BD-rate over a cost on a logarithmic axis; better is further down and to the left.

    A bar shows the range of the cost over the rate points. Raises `ValueError` for no points or a
    cost that is not positive.
    """
    if not points:
        raise ValueError(f"no codec has both a BD-rate and a value for {cost_label.lower()}")
    if min(point.cost_range[0] for point in points) <= 0:
        raise ValueError(f"a value of {cost_label.lower()} is not positive")
    labels = labels or {}
    width = (width_cm or COLUMN_CM) / CM_PER_INCH
    with rc_context(STYLE):
        fig = Figure(figsize=(width, 0.76 * width), layout="constrained")
        FigureCanvasAgg(fig)
        panel = fig.add_subplot()
        for i, point in enumerate(points):
            low, high = point.cost_range
            style = {"color": _colour(i), "zorder": 3}
            if low < high:
                panel.plot([low, high], [point.bd_rate] * 2, linewidth=0.9, **style)
            panel.plot([point.cost], [point.bd_rate], MARKERS[i % len(MARKERS)], ms=5, **style)
        panel.axhline(0, color="#666666", linewidth=0.7, zorder=1)
        panel.margins(x=0.25, y=0.18)
        _log_axis(panel)
        panel.set_xlabel(cost_label)
        name = labels.get(anchor, anchor)
        quality = METRICS[metric].removesuffix(" (dB)")
        panel.set_ylabel(f"BD-rate (%) against {name},\nat equal {quality}")
        if title:
            fig.suptitle(title, fontsize=9)
        texts = [labels.get(point.name, point.name) for point in points]
        _label_points(fig, panel, points, texts)
    return fig


def save_figure(fig: Figure, path: Path) -> None:
    """Write a figure as `.pdf`, `.svg` or `.png` (300 dpi), always the same bytes for the same one.

    Raises `ValueError` for another extension.
    """
    # Entries that would hold a date or the library's version.
    volatile: dict[str, tuple[str, ...]] = {
        ".pdf": ("CreationDate", "Creator", "Producer"),
        ".svg": ("Date", "Creator"),
        ".png": ("Software",),
    }
    kind = path.suffix.lower()
    if kind not in volatile:
        raise ValueError(f"{path}: a plot is written as {', '.join(FORMATS)}")
    with rc_context(STYLE):
        fig.savefig(path, dpi=300, metadata=dict.fromkeys(volatile[kind]))


# ---- parts --------------------------------------------------------------------------------------


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _draw_curves(
    panel: Axes,
    curves: Sequence[NamedCurve],
    metric: str,
    bpp_range: tuple[float, float] | None,
    labels: dict[str, str],
) -> None:
    low, high = bpp_range or (0.0, np.inf)
    visible = []
    for i, curve in enumerate(curves):
        rates, qualities = points_of(curve.values, metric)
        if not rates:
            continue
        published = curve.is_published
        panel.plot(
            rates,
            qualities,
            color=_colour(i),
            linestyle=(0, (4, 1.6)) if published else "-",
            marker=MARKERS[i % len(MARKERS)],
            markerfacecolor="white" if published else _colour(i),
            markeredgewidth=0.8,
            # Published curves may have dozens of points, of which the line shows enough.
            markevery=0.06 if published else None,
            label=labels.get(curve.name, curve.name),
            zorder=2 if published else 3,
        )
        visible += _part_of(rates, qualities, low, high)
    if not visible:
        raise ValueError(f"no curve has points of {METRICS[metric]} to show")
    if bpp_range:
        panel.set_xlim(low, high)
        margin = 0.04 * (max(visible) - min(visible)) or 1
        panel.set_ylim(min(visible) - margin, max(visible) + margin)


def _part_of(
    rates: Sequence[float], qualities: Sequence[float], low: float, high: float
) -> list[float]:
    """Qualities of a drawn line between two rates, at its points and where it is cut."""
    inside = [q for r, q in zip(rates, qualities, strict=True) if low <= r <= high]
    cuts = [cut for cut in (low, high) if rates[0] < cut < rates[-1]]
    return inside + [float(np.interp(cut, rates, qualities)) for cut in cuts]


def _log_axis(panel: Axes) -> None:
    """A logarithmic x-axis with plain numbers at 1, 2 and 5."""
    panel.set_xscale("log")
    low, high = panel.get_xlim()
    steps = (1.0, 2.0, 5.0) if high / low < 1000 else (1.0,)
    panel.xaxis.set_major_locator(LogLocator(subs=steps, numticks=20))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())


def _place_legend(fig: Figure, panels: list[Axes]) -> None:
    """One legend: in a corner of the first panel without a curve in it, else below the panels."""
    handles: dict[str, Any] = {}
    for panel in panels:
        for handle, text in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(text, handle)
    first = panels[0]
    if len(handles) == len(first.get_lines()):
        for corner in CORNERS:
            legend = first.legend(handles.values(), handles, loc=corner, borderaxespad=0.3)
            fig.draw_without_rendering()
            if not _covers_a_curve(first, legend.get_window_extent().padded(3)):
                return
            legend.remove()
    columns = _columns_that_fit(fig, list(handles))
    rows = -(-len(handles) // columns)
    # The panels keep their height: the legend gets room of its own.
    width, height = fig.get_size_inches()
    fig.set_size_inches(width, height + 0.05 + 0.15 * rows)
    fig.legend(handles.values(), handles, loc="outside lower center", ncols=columns)


def _covers_a_curve(panel: Axes, box: Bbox) -> bool:
    """Whether a box on the screen has a part of a line or a marker in it."""
    for line in panel.get_lines():
        outline: Outline = line.get_transform().transform_path(line.get_path())
        if outline.intersects_bbox(box, filled=False):
            return True
    return False


def _columns_that_fit(fig: Figure, texts: Sequence[str]) -> int:
    """Legend columns in the figure's width, for texts of about half an em per letter."""
    widest = max(map(len, texts)) * 0.6 * 7 + 35  # points
    return max(1, min(len(texts), int(fig.get_size_inches()[0] * 72 / widest)))


def _label_points(
    fig: Figure, panel: Axes, points: Sequence[TradeOff], texts: Sequence[str]
) -> None:
    """Names next to their points, at the first place that is free of others and in the panel."""
    fig.draw_without_rendering()
    to_screen: Callable = panel.transData.transform
    zero = float(to_screen((points[0].cost, 0))[1])
    taken = [Bbox.from_extents(panel.bbox.x0, zero - 1, panel.bbox.x1, zero + 1)]
    for point in points:
        (left, y), (right, _) = (to_screen((cost, point.bd_rate)) for cost in point.cost_range)
        taken.append(Bbox.from_extents(left - 4, y - 4, right + 4, y + 4))
    offsets = [(0, 6), (0, -6), (7, 0), (-7, 0), (6, 6), (6, -6), (-6, 6), (-6, -6), (0, 15)]
    offsets += [(0, -15), (12, 12), (12, -12), (-12, 12), (-12, -12)]
    for i, (point, text) in enumerate(zip(points, texts, strict=True)):
        label = None
        for dx, dy in offsets:
            label = panel.annotate(
                text,
                (point.cost, point.bd_rate),
                (dx, dy),
                textcoords="offset points",
                ha="center" if dx == 0 else "left" if dx > 0 else "right",
                va="center" if dy == 0 else "bottom" if dy > 0 else "top",
                fontsize=7,
                color=_colour(i),
            )
            label.set_in_layout(False)  # as the place was found for the layout without it
            box = label.get_window_extent()
            others = [other for j, other in enumerate(taken) if j != i + 1]  # 0: the zero line
            if _is_inside(box, panel.bbox) and box.count_overlaps(others) == 0:
                break
            if (dx, dy) != offsets[-1]:
                label.remove()
        assert label is not None
        taken.append(label.get_window_extent())


def _is_inside(box: Bbox, frame: Bbox) -> bool:
    return frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
