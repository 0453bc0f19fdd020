"""A region of interest from text or from Slicer's markups, as a box of voxels."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError
from .geometry import RAS_LPS, Geometry

#: Native half-open (k0, k1, j0, j1, i0, i1).
Box = tuple[int, int, int, int, int, int]
_FORMS = "write it as i0,i1,j0,j1,k0,k1 in voxels (the second of each pair is not included), or give a markups ROI file (.mrk.json)"


class Region:
    """A region as the user gave it; :meth:`box` needs the image.

    Raises:
        InputError: neither six numbers nor a readable ROI file. Raised at once, before an image is loaded.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._voxels: list[int] | None = None
        self._corners_ras: np.ndarray | None = None
        if re.fullmatch(r"[\s\d,+-]+", text):
            self._voxels = _voxels(text)
        else:
            self._corners_ras = _markups_corners(Path(text))

    def box(self, geometry: Geometry) -> Box:
        """Voxels whose centres lie in the region, cut to the image; for a turned box, the upright one around it.

        Raises:
            InputError: the region misses the image.
        """
        if self._voxels is not None:
            low, high = self._voxels[::2], self._voxels[1::2]
        else:
            assert self._corners_ras is not None
            ijk = np.linalg.solve(geometry.ijk_to_ras, self._corners_ras)[:3]
            # a border that passes through voxel centres must not depend on the last bit
            low = [math.ceil(v - 1e-6) for v in ijk.min(axis=1)]
            high = [math.floor(v + 1e-6) + 1 for v in ijk.max(axis=1)]
        size = geometry.shape_dhw[::-1]
        low = [max(a, 0) for a in low]
        high = [min(b, n) for b, n in zip(high, size, strict=True)]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            raise InputError(f"The region '{self.text}' has no voxel of the image, which has {' x '.join(map(str, size))} voxels (i, j, k); {_FORMS}.")
        return low[2], high[2], low[1], high[1], low[0], high[0]


def _voxels(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 6 or any(a >= b for a, b in zip(numbers[::2], numbers[1::2], strict=True)):
        raise InputError(f"The region '{text}' is not six whole numbers in rising pairs; {_FORMS}.")
    return numbers


def _markups_corners(path: Path) -> np.ndarray:
    """(4, 8) homogeneous corners in RAS of the one ROI in a markups file."""
    if not path.is_file():
        raise InputError(f"The region '{path}' is no file; {_FORMS}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rois = [markup for markup in content["markups"] if markup.get("type") == "ROI"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"'{path}' is not a markups file ({error}); {_FORMS}.") from error
    if len(rois) != 1:
        raise InputError(f"'{path}' has {len(rois)} regions; save one ROI node.")
    if rois[0].get("insideOut"):
        raise InputError(f"The region in '{path}' is inside out; turn that off in Slicer and save it again.")
    try:
        corners = _corners(rois[0])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"The region in '{path}' lacks a centre, a size or an orientation ({error}); save it again with Slicer 5.") from error
    if not np.isfinite(corners).all():
        raise InputError(f"The region in '{path}' has non-finite numbers; place it again in Slicer.")
    return corners


def _corners(roi: dict[str, Any]) -> np.ndarray:
    centre, size = (np.array(roi[key], dtype=float).reshape(3) for key in ("center", "size"))
    axes = np.array(roi.get("orientation", np.eye(3)), dtype=float).reshape(3, 3)
    signs = np.array([(a, b, c) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)], dtype=float).T
    corners = np.vstack([centre[:, None] + axes @ (signs * size[:, None] / 2), np.ones((1, 8))])
    return corners if str(roi.get("coordinateSystem", "LPS")) in ("RAS", "1") else RAS_LPS @ corners
