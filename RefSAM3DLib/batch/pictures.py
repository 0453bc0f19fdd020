"""Small pictures of a structure: three planes through its centre and its worst axial slice, image and mask apart.

Only Pillow and numpy: Slicer's Python has both. The image strip is a JPEG, the mask strip a transparent PNG of the same
size that is laid over it, so that a page can switch the mask off.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..atomic import write_aside
from ..places import boundary, in_patient_view, patient_view
from ..types import Modality, PromptResult, Volume

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

#: Side of one of the four panels, pixels.
PANEL = 176
#: Shortest side of what a panel shows, mm: enough of the surroundings to know where one is.
MIN_FIELD_MM = 90.0
#: Soft tissue window, HU.
CT_WINDOW = (-160.0, 240.0)


def grey_window(volume: Volume) -> tuple[float, float]:
    """Darkest and brightest value shown: HU for CT, percentiles of a sample for everything else."""
    import numpy as np

    if volume.modality == Modality.CT:
        return CT_WINDOW
    step = max(1, round((volume.array.size / 200_000) ** (1 / 3)))
    low, high = np.percentile(volume.array[::step, ::step, ::step], (1, 99.5))
    return float(low), float(high if high > low else low + 1)


def draw_structure(volume: Volume, result: PromptResult, places: dict[str, object], window: tuple[float, float]) -> tuple[Image.Image, Image.Image]:
    """Image strip ("L") and mask strip ("RGBA") of one structure, each four panels wide."""
    import numpy as np
    from PIL import Image

    image, spacing, order, flip = patient_view(volume.array, volume.geometry)
    mask, _, _, _ = patient_view(result.mask, volume.geometry)
    shape = volume.array.shape
    middle = (shape[0] // 2, shape[1] // 2, shape[2] // 2)
    centre, worst = (in_patient_view(tuple(places.get(name, middle)), shape, order, flip) for name in ("centre_kji", "worst_kji"))  # type: ignore[arg-type]
    field = MIN_FIELD_MM
    if result.box:
        field = max(field, 1.5 * max((result.box[2 * a + 1] - result.box[2 * a]) * s for a, s in zip(order, spacing, strict=True)))
    greys, masks = Image.new("L", (4 * PANEL, PANEL), 0), Image.new("RGBA", (4 * PANEL, PANEL), (0, 0, 0, 0))
    # Axis that is cut, and whether rows run against the axis (superior is up).
    for column, (axis, at, upside_down) in enumerate(((0, centre, False), (1, centre, True), (2, centre, True), (0, worst, False))):
        rows, columns = [a for a in range(3) if a != axis]
        cut: list[slice | int] = [slice(None)] * 3
        cut[axis] = at[axis]
        for a in (rows, columns):
            half = max(1, round(field / 2 / spacing[a]))
            cut[a] = slice(max(0, at[a] - half), at[a] + half + 1)
        grey, drawn = np.asarray(image[tuple(cut)], dtype=np.float32), np.asarray(mask[tuple(cut)], dtype=bool)
        if upside_down:
            grey, drawn = grey[::-1], drawn[::-1]
        height, width = grey.shape[0] * spacing[rows], grey.shape[1] * spacing[columns]
        scale = PANEL / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        place = column * PANEL + (PANEL - size[0]) // 2, (PANEL - size[1]) // 2
        low, high = window
        levels = np.clip((grey - low) / (high - low) * 255, 0, 255).astype(np.uint8)
        greys.paste(Image.fromarray(levels).resize(size, Image.Resampling.BILINEAR), place)
        masks.paste(_tint(drawn, size, result.colour), place)
    return greys, masks


def _tint(drawn: np.ndarray, size: tuple[int, int], colour: tuple[int, int, int]) -> Image.Image:
    import numpy as np
    from PIL import Image

    large = np.asarray(Image.fromarray(drawn.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)) > 127
    rgba = np.zeros((*large.shape, 4), dtype=np.uint8)
    rgba[..., :3] = colour
    rgba[large, 3] = 70
    if large.any():
        rgba[boundary(large), 3] = 255
    return Image.fromarray(rgba)


def write_pictures(folder: Path, number: int, greys: Image.Image, masks: Image.Image) -> tuple[str, str]:
    """Store both strips as ``pictures/NN.jpg`` and ``pictures/NN.mask.png`` and return these names."""
    (folder / "pictures").mkdir(exist_ok=True)
    names = f"pictures/{number:02d}.jpg", f"pictures/{number:02d}.mask.png"
    with write_aside(folder / names[0], overwrite=True) as aside:
        greys.save(aside, format="JPEG", quality=82)
    with write_aside(folder / names[1], overwrite=True) as aside:
        # 16 colours are enough for one tint at three strengths, and a fifth of the bytes.
        masks.quantize(16).save(aside, format="PNG", optimize=True)
    return names


def write_thumbnail(path: Path, rows: list[tuple[str, Image.Image, Image.Image]]) -> None:
    """One PNG per case: a line per structure with its name, the mask burnt in."""
    from PIL import Image, ImageDraw

    sheet = Image.new("RGB", (4 * PANEL, max(1, len(rows)) * (PANEL + 16)), (24, 24, 24))
    pen = ImageDraw.Draw(sheet)
    for number, (title, greys, masks) in enumerate(rows):
        top = number * (PANEL + 16)
        pen.text((4, top + 2), title.encode("ascii", "replace").decode()[:100], fill=(230, 230, 230))
        sheet.paste(Image.alpha_composite(greys.convert("RGBA"), masks).convert("RGB"), (0, top + 16))
    if not rows:
        pen.text((4, 4), "nothing was asked for", fill=(230, 230, 230))
    with write_aside(path, overwrite=True) as aside:
        sheet.save(aside, format="PNG", optimize=True)
