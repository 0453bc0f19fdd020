"""Does a left or right structure lie on its side of the body's midline?"""

from __future__ import annotations

import torch

from ..types import Modality
from .embed import GridEmbedding

#: Share of the fullest sagittal slice by which one lateral border may hold more of the body than the other: a crop of one side cuts through
#: the trunk, neck or head there, a field of view that is too narrow through a shoulder or an arm at most.
MAX_CUT = 0.4
#: Of a structure with a side in such an image. The image's own warning names the file, which a result must not do: the name may be a person's.
SIDE_UNSURE_WARNING = "The file does not say for certain what is left and what is right, so this may be the other side; check the side before you use it."


def side_doubt(view: GridEmbedding, modality: Modality, side: str, index: float) -> str:
    """A sentence if an outline lies on the other side; "" if it does not, or if the view does not show where the midline is.

    Args:
        view: the look at the whole volume, not tilted. side: "left" or "right", of the structure asked for.
        index: centre of the outline from left to right, in oriented native voxels.
    """
    if view.extent_mm[2] < view.grid.extent_mm[0][2]:  # narrower than any image of the training: a part of the body
        return ""
    body = view.values > -500 if modality is Modality.CT else view.values > view.values.mean()
    columns = body.sum((0, 1)).double()
    if float((columns[0] - columns[-1]).abs()) > MAX_CUT * float(columns.max()):  # a crop of one side: its middle is not the body's
        return ""
    middle = float((columns * torch.arange(len(columns))).sum() / columns.sum().clamp(min=1)) + view.origin[2]
    working = (index - view.frame.to_native[0, 3]) / view.frame.to_native[0, 0]
    found = "left" if working > middle else "right"
    if found == side:
        return ""
    return f"The {side} side was asked for, but the result lies on the {found} of the body's midline; check the side before you use it."
