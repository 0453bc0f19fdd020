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

#: Key of :attr:`Volume.metadata`.
SIDE_UNSURE = "side_unsure"


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
        metadata: text fields worth keeping with a result (series UID, description); never shown as identity. ``SIDE_UNSURE`` is one of them where
            the file does not say for certain what is left and what is right.
    """

    array: np.ndarray
    geometry: Geometry
    modality: Modality | None = None
    modality_source: str = ""
    source: str = ""
    dicom_files: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Placed:
    """An array of a box of the native grid, zero elsewhere: one structure of a CT touches a hundredth of its voxels, and a whole mask 80 MB.

    Attributes:
        values: voxels inside ``box``, in the order and direction of the native grid.
        box: native (k0, k1, j0, j1, i0, i1), half open. shape: (D, H, W) of the native grid.
    """

    values: np.ndarray
    box: tuple[int, int, int, int, int, int]
    shape: tuple[int, int, int]

    def cut(self, box: tuple[int, int, int, int, int, int]) -> np.ndarray:
        """The voxels of a box that lies inside this one."""
        return self.values[tuple(slice(box[2 * a] - self.box[2 * a], box[2 * a + 1] - self.box[2 * a]) for a in range(3))]

    def whole(self) -> np.ndarray:
        """(D, H, W) on the native grid."""
        import numpy as np

        array = np.zeros(self.shape, dtype=self.values.dtype)
        array[tuple(slice(self.box[2 * a], self.box[2 * a + 1]) for a in range(3))] = self.values
        return array


class NativeArray:
    """A field that is given an array or a :class:`Placed` one, and read as a whole array: made at the first reading, then kept."""

    def __init__(self, optional: bool = False) -> None:
        self._optional = optional

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        if instance is None:  # a dataclass asks for the default of the field
            if self._optional:
                return None
            raise AttributeError(self._name)
        value = vars(instance)[self._name]
        if isinstance(value, Placed):
            value = vars(instance)[self._name] = value.whole()
        return value

    def __set__(self, instance: object, value: np.ndarray | Placed | None) -> None:
        vars(instance)[self._name] = value


@dataclass
class PromptResult:
    """The answer to one prompt on one volume.

    Attributes:
        prompt: text as typed. resolved: canonical structure or composite ("" if unknown).
        verdict: present, uncertain, absent or unknown. Only present and uncertain results carry voxels.
        presence: calibrated probability that the structure is in the field of view, 0 to 1 (NaN if unknown).
        confidence: mean certainty of the drawn voxels, 0 to 1 (NaN if nothing is drawn).
        mask: bool (D, H, W) on the native grid of the volume; all False if absent or unknown. Made whole when it is first read.
        probability: optional float16 (D, H, W) on the native grid, made whole likewise.
        volume_ml: volume of the mask. box: native (k0, k1, j0, j1, i0, i1), half open, or None if empty.
        elapsed_s: seconds spent on this prompt alone (the shared encoding of the image is not in it).
        warnings: sentences that concern this prompt alone.
    """

    prompt: str
    resolved: str
    verdict: Verdict
    presence: float
    confidence: float
    mask: NativeArray = NativeArray()
    volume_ml: float  # type: ignore[misc]  # the descriptor above is no default, see NativeArray.__get__
    box: tuple[int, int, int, int, int, int] | None  # type: ignore[misc]
    elapsed_s: float  # type: ignore[misc]
    probability: NativeArray = NativeArray(optional=True)
    warnings: tuple[str, ...] = ()
    suggestions: tuple[str, ...] = ()
    colour: tuple[int, int, int] = (127, 127, 127)
    details: Mapping[str, Any] = field(default_factory=dict)

    def mask_in_box(self) -> np.ndarray | None:
        """The mask inside ``box`` without making it whole; None if it is empty."""
        if self.box is None:
            return None
        kept = vars(self)["mask"]
        if isinstance(kept, Placed):
            return kept.cut(self.box)
        k0, k1, j0, j1, i0, i1 = self.box
        return kept[k0:k1, j0:j1, i0:i1]
