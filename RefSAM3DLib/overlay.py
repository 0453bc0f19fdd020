"""A picture of a result: three planes through the structures as a radiologist hangs them, with the verdicts beside them.

matplotlib is loaded on use, through its object interface: no window, no global state, safe in a thread or a worker process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .atomic import write_aside
from .errors import OutputError
from .geometry import RAS_LPS, reorient
from .surfaces import dice
from .types import Modality, PromptResult, Verdict, Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Display range of CT: soft tissue with bone still told from it.
WINDOW_HU = (-160.0, 260.0)
#: What is shown around the structures, and the least that is shown, so that a small organ keeps its surroundings.
MARGIN_MM, LEAST_MM = 30.0, 130.0
#: Beyond this angle between the voxel axes and the patient's, the picture says that it is oblique.
OBLIQUE_DEGREES = 3.0
_GREY = (127, 127, 127)
#: Colours for results that bring none; distinct on grey, also for most colour-blind readers (Okabe and Ito).
_PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))
_VERDICT_COLOURS = {Verdict.PRESENT: "#8fd18f", Verdict.UNCERTAIN: "#f0c75e", Verdict.ABSENT: "#9aa4b0", Verdict.UNKNOWN: "#d98c8c"}


@dataclass(frozen=True)
class _Layer:
    """One result in working orientation: the mask (D, H, W), its truth or None, and its colour in [0, 1]."""

    result: PromptResult
    mask: np.ndarray
    truth: np.ndarray | None
    colour: tuple[float, float, float]
    dice: float | None


@dataclass(frozen=True)
class _Plane:
    """One panel: the axes of the working array that run down and across, and the letters at left, right, top, bottom."""

    name: str
    through: int
    down: int
    across: int
    letters: tuple[str, str, str, str]


#: (D, H, W) grow to Superior, Posterior, Left; the reader faces the patient, and sees the nose on the left in a sagittal plane.
_PLANES = (
    _Plane("axial", 0, 1, 2, ("R", "L", "A", "P")),
    _Plane("coronal", 1, 0, 2, ("R", "L", "S", "I")),
    _Plane("sagittal", 2, 0, 1, ("A", "P", "S", "I")),
)
_LETTER_PLACES = (
    (0.012, 0.5, "left", "center"), (0.988, 0.5, "right", "center"), (0.5, 0.985, "center", "top"), (0.5, 0.015, "center", "bottom"),
)  # fmt: skip


def overlay_figure(
    volume: Volume,
    results: Sequence[PromptResult],
    path: Path | str,
    truth: Mapping[str, np.ndarray] | None = None,
    title: str = "",
    overwrite: bool = False,
) -> None:
    """Write a PNG with axial, coronal and sagittal planes, masks as contours with a light fill, and a legend.

    Each plane lies where it shows the most structures, then the most of them. The millimetre is equally long in all panels.
    Oblique volumes are shown along their own axes, named after the patient axes that they are nearest to, and the legend says so.
    Nothing of the volume's source or metadata is drawn: a title is shown as it is given.

    Args:
        volume: the image. results: their masks are on its grid.
        truth: reference masks on the same grid, by structure name: drawn as dotted white lines, with Dice in the legend.

    Raises:
        OutputError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OutputError("A picture needs matplotlib, which is not installed; run: pip install matplotlib") from error
    order, flip = volume.geometry.to_working_orientation()
    array = reorient(volume.array, order, flip)
    spacing = volume.geometry.permuted(order, flip).spacing_xyz_mm[::-1]
    layers = _layers(results, truth or {}, order, flip)
    drawn = [layer for layer in layers if layer.mask.any()]
    centre = _best_slices([layer.mask for layer in drawn], array.shape)
    crop = _crop([layer.mask for layer in drawn], array.shape, spacing)
    low, high = _display_range(volume, array)

    size_mm = [(c.stop - c.start) * s for c, s in zip(crop, spacing, strict=True)]
    widths = [size_mm[plane.across] for plane in _PLANES]
    heights = [size_mm[plane.down] for plane in _PLANES]
    # The panels share 13 inches unless that makes them taller than 8; gaps and the legend come on top.
    inch = min(13.0 / sum(widths), 8.0 / max(heights))
    panels, gap, head = max(heights) * inch, 0.12, 0.62 if title else 0.4
    total_w, total_h = sum(widths) * inch + 4 * gap + 4.6, max(panels, 0.54 * len(layers) + 1.0) + head + 0.35
    figure = Figure(figsize=(total_w, total_h), facecolor="#111316")
    FigureCanvasAgg(figure)
    left = gap
    for plane, width, height in zip(_PLANES, widths, heights, strict=True):
        top = head + (total_h - head - 0.35 - height * inch) / 2
        box = (left / total_w, 1.0 - (top + height * inch) / total_h, width * inch / total_w, height * inch / total_h)
        axes = figure.add_axes(box)
        _draw_plane(axes, plane, array, drawn, centre, crop, spacing, (low, high))
        left += width * inch + gap
    legend = figure.add_axes((left / total_w, 0.0, 1.0 - left / total_w, 1.0 - head / total_h))
    _draw_legend(legend, layers, 4.6, total_h - head, _notes(volume, layers, (low, high)))
    if title:
        figure.text(gap / total_w, 1.0 - 0.3 / total_h, title, color="white", fontsize=13, fontweight="bold", va="center")
    with write_aside(path, overwrite) as aside:
        figure.savefig(aside, dpi=110, facecolor=figure.get_facecolor(), metadata={"Software": "RefSAM3D"})


def _layers(results: Sequence[PromptResult], truth: Mapping[str, np.ndarray], order: Any, flip: Any) -> list[_Layer]:
    """Results in working orientation, each with a colour of its own."""
    layers: list[_Layer] = []
    for number, result in enumerate(results):
        rgb = result.colour if result.colour != _GREY else _PALETTE[number % len(_PALETTE)]
        reference = truth.get(result.resolved)
        overlap = None if reference is None else dice(result.mask, reference)
        reference = None if reference is None else reorient(reference, order, flip)
        layers.append(_Layer(result, reorient(result.mask, order, flip), reference, (rgb[0] / 255, rgb[1] / 255, rgb[2] / 255), overlap))
    return layers


def _best_slices(masks: Sequence[np.ndarray], shape: Sequence[int]) -> tuple[int, int, int]:
    """Per axis the slice that shows the most structures, each weighted by its area there relative to its largest."""
    if not masks:
        return shape[0] // 2, shape[1] // 2, shape[2] // 2
    best = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        areas = np.stack([mask.sum(axis=others, dtype=np.float64) for mask in masks])
        score = np.sqrt(areas / areas.max(axis=1, keepdims=True)).sum(axis=0)
        # The middle of the structures wins where slices are equally good.
        middle = float((np.arange(shape[axis]) * areas.sum(axis=0)).sum() / areas.sum())
        best.append(int(np.argmax(score - 0.002 * np.abs(np.arange(shape[axis]) - middle))))
    return best[0], best[1], best[2]


def _crop(masks: Sequence[np.ndarray], shape: Sequence[int], spacing: Sequence[float]) -> tuple[slice, slice, slice]:
    """Box of the structures with a margin; the whole volume if nothing is drawn."""
    if not masks:
        return slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2])
    parts = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        hit = np.flatnonzero(np.logical_or.reduce([mask.any(axis=others) for mask in masks]))
        margin = max(MARGIN_MM, (LEAST_MM - (hit[-1] - hit[0] + 1) * spacing[axis]) / 2) / spacing[axis]
        parts.append(slice(max(0, int(hit[0] - margin)), min(shape[axis], int(np.ceil(hit[-1] + 1 + margin)))))
    return parts[0], parts[1], parts[2]


def _display_range(volume: Volume, array: np.ndarray) -> tuple[float, float]:
    """CT by its window; anything else from the darkest to nearly the brightest, by percentiles of a sample."""
    if volume.modality is Modality.CT:
        return WINDOW_HU
    step = [max(1, n // 96) for n in array.shape]
    low, high = np.percentile(array[:: step[0], :: step[1], :: step[2]], (1.0, 99.5))
    return float(low), float(high if high > low else low + 1.0)


def _draw_plane(
    axes: Axes,
    plane: _Plane,
    array: np.ndarray,
    layers: Sequence[_Layer],
    centre: Sequence[int],
    crop: Sequence[slice],
    spacing: Sequence[float],
    window: tuple[float, float],
) -> None:
    """One panel in millimetres: grey image, structures, letters, scale, and thin lines where the other planes cut."""
    from matplotlib.patheffects import withStroke

    cut: list[Any] = list(crop)
    cut[plane.through] = centre[plane.through]
    rows, columns = crop[plane.down], crop[plane.across]
    dy, dx = spacing[plane.down], spacing[plane.across]
    extent = ((columns.start - 0.5) * dx, (columns.stop - 0.5) * dx, (rows.start - 0.5) * dy, (rows.stop - 0.5) * dy)
    across, down = np.arange(columns.start, columns.stop) * dx, np.arange(rows.start, rows.stop) * dy
    axes.imshow(array[tuple(cut)], cmap="gray", vmin=window[0], vmax=window[1], extent=extent, origin="lower", interpolation="bilinear")
    for layer in layers:
        shown = layer.mask[tuple(cut)]
        if shown.any():
            fill = np.zeros((*shown.shape, 4))
            fill[shown] = (*layer.colour, 0.22)
            axes.imshow(fill, extent=extent, origin="lower", interpolation="nearest")
            style = "dashed" if layer.result.verdict is Verdict.UNCERTAIN else "solid"
            _contour(axes, across, down, shown, colors=[layer.colour], linewidths=1.7, linestyles=style)
        if layer.truth is not None and layer.truth[tuple(cut)].any():
            _contour(axes, across, down, layer.truth[tuple(cut)], colors="white", linewidths=0.8, linestyles="dotted")
    axes.axvline(centre[plane.across] * dx, color="white", linewidth=0.4, alpha=0.3)
    axes.axhline(centre[plane.down] * dy, color="white", linewidth=0.4, alpha=0.3)
    axes.set_xlim(extent[0], extent[1])
    # D grows to Superior and is drawn upwards, H grows to Posterior and is drawn downwards.
    axes.set_ylim(*(extent[2:] if plane.down == 0 else extent[:1:-1]))
    axes.set_axis_off()
    rim = [withStroke(linewidth=2.5, foreground="black")]  # letters stay legible on bone
    for letter, (x, y, ha, va) in zip(plane.letters, _LETTER_PLACES, strict=True):
        place: dict[str, Any] = {"ha": ha, "va": va, "transform": axes.transAxes, "path_effects": rim}
        axes.text(x, y, letter, color="#ffd966", fontsize=12, fontweight="bold", **place)
    axes.text(0.012, 0.985, plane.name, transform=axes.transAxes, color="#cfd6de", fontsize=9, ha="left", va="top", path_effects=rim)
    if plane.through == 0:
        _scale_bar(axes)


def _contour(axes: Axes, across: np.ndarray, down: np.ndarray, mask: np.ndarray, **style: Any) -> None:
    """Outline of a mask, closed at the border of the panel too."""
    dx, dy = (float(a[1] - a[0]) if len(a) > 1 else 1.0 for a in (across, down))
    x, y = (np.concatenate([[a[0] - d], a, [a[-1] + d]]) for a, d in ((across, dx), (down, dy)))
    axes.contour(x, y, np.pad(mask.astype(np.float32), 1), levels=[0.5], antialiased=True, **style)


def _scale_bar(axes: Axes) -> None:
    """A bar of 50 mm (20 in a small panel) at the lower left."""
    from matplotlib.patheffects import withStroke

    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    length = 50.0 if abs(x1 - x0) > 100.0 else 20.0
    x, y = x0 + 0.03 * (x1 - x0), y0 + 0.035 * (y1 - y0)
    rim = [withStroke(linewidth=3.0, foreground="black")]
    axes.plot([x, x + length], [y, y], color="white", linewidth=2.0, solid_capstyle="butt", path_effects=rim)
    axes.text(
        x + length / 2, y + 0.012 * (y1 - y0), f"{length:g} mm", color="white", fontsize=8, ha="center", va="bottom", path_effects=rim
    )


def _notes(volume: Volume, layers: Sequence[_Layer], window: tuple[float, float]) -> list[str]:
    """Small print: what a reader must know to read the picture rightly."""
    unit = " HU" if volume.modality is Modality.CT else ""
    notes = [f"grey: {window[0]:.4g} to {window[1]:.4g}{unit}"]
    if any(layer.truth is not None for layer in layers):
        notes.append("white dots: reference")
    if any(layer.result.verdict is Verdict.UNCERTAIN for layer in layers):
        notes.append("dashed: uncertain")
    directions = RAS_LPS[:3, :3] @ volume.geometry.directions
    angle = float(np.degrees(np.arccos(np.clip(np.abs(directions).max(axis=0).min(), -1.0, 1.0))))
    if angle > OBLIQUE_DEGREES:
        notes.append(f"oblique: planes of the image, up to {angle:.0f}° off the patient's")
    return notes


def _draw_legend(axes: Axes, layers: Sequence[_Layer], width: float, height: float, notes: Sequence[str]) -> None:
    """One entry per result: colour, name, verdict, volume and overlap; axes in inches from the top left."""
    from matplotlib.patches import Rectangle

    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    y = 0.2
    for layer in layers:
        result = layer.result
        drawn = bool(layer.mask.any())
        axes.add_patch(
            Rectangle((0.12, y - 0.1), 0.22, 0.2, facecolor=layer.colour if drawn else "none", edgecolor="#9aa4b0", linewidth=0.8)
        )
        axes.text(0.46, y, _shorten(result.resolved or result.prompt), color="white", fontsize=11, va="center")
        axes.text(0.46, y + 0.22, result.verdict.value, color=_VERDICT_COLOURS[result.verdict], fontsize=9.5, va="center")
        facts = []
        if np.isfinite(result.presence):
            facts.append(f"presence {result.presence:.0%}")
        if drawn:
            facts.append(f"{result.volume_ml:.1f} mL")
        if layer.dice is not None:
            facts.append(f"Dice {layer.dice:.2f}")
        axes.text(1.35, y + 0.22, "   ".join(facts), color="#cfd6de", fontsize=9.5, va="center")
        y += 0.54
    for number, note in enumerate(notes):
        axes.text(0.12, y + 0.05 + 0.2 * number, note, color="#8a94a0", fontsize=8.5, va="center")


def _shorten(name: str, limit: int = 38) -> str:
    """A name that fits its column; ``$`` would start a formula."""
    name = name.replace("$", r"\$")
    return name if len(name) <= limit else name[: limit - 1] + "…"
