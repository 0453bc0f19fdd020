"""Plain values that cross the borders of the engine. Importing this module costs nothing: no numpy, no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from .geometry import Geometry

#: ``progress(fraction, stage)``: a true fraction of the whole run in [0, 1] and the name of the stage.
Progress = Callable[[float, str], None]
#: ``cancel()`` is asked before each layer of the image branch; True stops the run with :class:`~RefSAM3DLib.errors.Cancelled`.
Cancel = Callable[[], bool]


class Modality(str, Enum):
    """Kinds of image that a grid can be trained for."""

    CT = "ct"
    MR = "mr"
    PET = "pet"


class Verdict(str, Enum):
    """What the engine says about one prompt. ``UNKNOWN`` prompts are never drawn unless explicitly allowed."""

    PRESENT = "present"
    UNCERTAIN = "uncertain"
    ABSENT = "absent"
    UNKNOWN = "unknown"


class PromptStatus(str, Enum):
    """How a text relates to a checkpoint's vocabulary, known before any tile is computed."""

    KNOWN = "known"
    CLOSE = "close"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Term:
    """One structure of a prompt: ``subtract`` is True behind "minus", "without", "except"."""

    structure: str
    subtract: bool = False


@dataclass(frozen=True)
class ResolvedPrompt:
    """One result that a typed text asks for; "left and right parotid glands" gives two of them.

    Attributes:
        prompt: the text as typed (stripped).
        resolved: canonical wording, e.g. "hippocampus minus posterior hippocampus"; empty unless known.
        status: known / close / unknown.
        terms: structures to unite and subtract, in order; empty unless known.
        suggestions: canonical names near the text, best first (close: at least one).
        note: one sentence for the user where the reading is not obvious ("no side given: both sides").
        text: what the text tower reads: of a known prompt the canonical name, so that every wording of a structure gives the same mask.
    """

    prompt: str
    resolved: str
    status: PromptStatus
    terms: tuple[Term, ...] = ()
    suggestions: tuple[str, ...] = ()
    note: str = ""
    text: str = ""


@dataclass
class Volume:
    """A scalar image and where it lies in the patient.

    Attributes:
        array: (D, H, W) = (k, j, i), any real dtype, finite; HU for CT.
        geometry: IJK to RAS, millimetres.
        modality: None until decided; ``modality_source`` says by whom: "dicom", "file", "inspection" or "user".
        source: path or node name for messages.
        dicom_files: source files of a DICOM series in slice order of ``array`` (needed to write a DICOM SEG).
        metadata: text fields worth keeping with a result (series UID, description); never shown as identity.
    """

    array: np.ndarray
    geometry: Geometry
    modality: Modality | None = None
    modality_source: str = ""
    source: str = ""
    dicom_files: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass
class PromptResult:
    """The answer to one prompt on one volume.

    Attributes:
        prompt: text as typed. resolved: canonical structure or composite ("" if unknown).
        verdict: present, uncertain, absent or unknown. Only present and uncertain results carry voxels.
        presence: calibrated probability that the structure is in the field of view, 0 to 1 (NaN if unknown).
        confidence: mean certainty of the drawn voxels, 0 to 1 (NaN if nothing is drawn).
        mask: bool (D, H, W) on the native grid of the volume; all False if absent or unknown.
        probability: optional float16 (D, H, W) on the native grid.
        volume_ml: volume of the mask. box: native (k0, k1, j0, j1, i0, i1), half open, or None if empty.
        elapsed_s: seconds spent on this prompt alone (the shared encoding of the image is not in it).
        warnings: sentences that concern this prompt alone.
    """

    prompt: str
    resolved: str
    verdict: Verdict
    presence: float
    confidence: float
    mask: np.ndarray
    volume_ml: float
    box: tuple[int, int, int, int, int, int] | None
    elapsed_s: float
    probability: np.ndarray | None = None
    warnings: tuple[str, ...] = ()
    suggestions: tuple[str, ...] = ()
    colour: tuple[int, int, int] = (127, 127, 127)
    details: Mapping[str, Any] = field(default_factory=dict)
