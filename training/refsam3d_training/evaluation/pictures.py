"""One picture per case: each structure's largest slice, truth in green and the answer in red. Never part of a repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from RefSAM3DLib.geometry import reorient
from RefSAM3DLib.types import Modality, Volume

TILE = 220


def write_picture(path: Path, volume: Volume, truth: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> None:
    """Contours of truth (green) and answer (red) on the axial slice where the truth is largest."""
    from PIL import Image, ImageDraw

    order, flip = volume.geometry.to_working_orientation()
    grey = reorient(volume.array, order, flip)
    low, high = (-160.0, 240.0) if volume.modality is Modality.CT else np.percentile(grey, [1, 99])
    names = [n for n, m in truth.items() if m.any()]
    if not names:
        return
    sheet = Image.new("RGB", (TILE * len(names), TILE + 16))
    pen = ImageDraw.Draw(sheet)
    spacing = volume.geometry.permuted(order, flip).spacing_xyz_mm
    for column, name in enumerate(names):
        masks = [reorient(m, order, flip) for m in (truth[name], found.get(name, np.zeros_like(truth[name])))]
        index = int(masks[0].sum((1, 2)).argmax())
        plane = np.clip((grey[index].astype(float) - low) / max(high - low, 1e-6), 0, 1) * 255
        rgb = np.repeat(plane.astype(np.uint8)[..., None], 3, 2)
        for mask, colour in zip(masks, ((60, 220, 60), (255, 60, 60)), strict=True):
            rgb[contour(mask[index])] = colour
        height, width = plane.shape[0] * spacing[1], plane.shape[1] * spacing[0]
        scale = TILE / max(height, width)
        tile = Image.fromarray(rgb).resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.NEAREST)
        sheet.paste(tile, (column * TILE, 16))
        pen.text((column * TILE + 4, 2), name, fill=(255, 255, 255))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def contour(mask: np.ndarray) -> np.ndarray:
    """Voxels of a 2D mask with a neighbour outside it."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner
