"""What is said about a structure, and why: from its presence and its outline to present, uncertain or absent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..types import Verdict

if TYPE_CHECKING:
    from ..checkpoint import Calibration


def verdict_of(presence: float, drawn: bool, calibration: Calibration) -> Verdict:
    """Present, uncertain or absent from the calibrated probability and from whether anything could be outlined."""
    if presence < calibration.absent_below or (not drawn and presence < calibration.present_from):
        return Verdict.ABSENT
    return Verdict.PRESENT if presence >= calibration.present_from and drawn else Verdict.UNCERTAIN


def part_doubt(structure: str, presence: float, subtract: bool, calibration: Calibration) -> str:
    """What a combination must say of a structure that does not decide its verdict, as a sentence; "" where nothing is to be said [ours].

    A combination is as present as its likeliest structure, so that without this a missing or doubtful other one would go unsaid. One that
    is absent and was to be subtracted leaves nothing to do.
    """
    if presence < calibration.absent_below:
        return "" if subtract else f"'{structure}' was not found; the result is without it."
    if presence >= calibration.present_from:
        return ""
    what = "what was subtracted" if subtract else "its part of the result"
    return f"It is not certain that '{structure}' is in the image (presence {presence:.2f}); look at {what} before you use it."


def outline_doubt(structure: str, confidence: float | None, calibration: Calibration) -> str:
    """Why a close outline is not to be trusted, as a sentence; "" where it is as usual [ours].

    The look at the whole volume decides presence, and it follows the place more than the organ. The outline follows the organ: where
    one was painted over, or an outline failed as a whole, its voxels are less probable than those of intact organs. It is no measure
    of quality: an outline that is sure and yet too long passes.

    Args:
        confidence: mean probability of the outline's voxels; None where nothing could be outlined although the place is in view.
    """
    if confidence is None:
        return f"The place of '{structure}' is in view, but nothing could be outlined there: it may be missing or altered. Look at the image there."
    least = calibration.least_confidence.get(structure)
    if least is None or confidence >= least:
        return ""
    digits = 2 if f"{confidence:.2f}" != f"{least:.2f}" else 4
    return (
        f"'{structure}' was outlined with an unusually low confidence ({confidence:.{digits}f}; {least:.{digits}f} or more where it is intact): it "
        "may be missing, altered or outlined wrongly. Look at it before you use it."
    )


def not_subtracted(structure: str) -> str:
    """That a structure to be taken away is in view and yet nothing of it was."""
    return f"'{structure}' is in view but could not be outlined, so nothing was subtracted. Look at the image there."


def nothing_in_region(structure: str) -> str:
    """That a structure is in the image, but not where it was looked for."""
    return f"'{structure}' is in the image, but nothing of it lies in the region; move or enlarge the region, or ask without one."
