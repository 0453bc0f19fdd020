"""DICOM Segmentation objects: written through highdicom, read through pydicom.

A SEG leaves out empty slices. The grid of the image and the tags are kept in the algorithm parameters of each segment, so that our own
files come back whole; those of others come back as far as their slices reach.
"""

from __future__ import annotations

import json
import logging
import math
import re
import struct
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__
from .dicom_frames import frame_planes, functional_group
from .errors import InputError, OutputError
from .geometry import RAS_LPS, Geometry
from .provenance import is_drawn, segment_names, segment_tags, terminology_of
from .slice_stack import MAX_OFF, Plane, stack_planes
from .types import PromptResult, Volume

log = logging.getLogger(__name__)

_GRID = "grid"
#: What a SEG takes over from its source, of patient, study and frame of reference.
_COPIED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDate", "StudyTime", "AccessionNumber",
    "FrameOfReferenceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID",
)  # fmt: skip
#: Slicer's Python is not the one that a shell's pip serves.
HIGHDICOM_ADVICE = "install it with: pip install highdicom (in Slicer's Python console: slicer.util.pip_install('highdicom'))"


class UnfitSeriesError(OutputError):
    """A DICOM series lacks what a SEG must copy. The text names attributes and no values, which may identify the patient."""


def check_highdicom(path: object) -> None:
    """Refuse a DICOM SEG where the packages that write it are missing.

    Raises:
        OutputError: with the command that installs them.
    """
    import importlib.util

    if importlib.util.find_spec("highdicom") is None:
        raise OutputError(f"'{path}' needs the package highdicom; {HIGHDICOM_ADVICE}, or write a .seg.nrrd file instead.")


def write_dicom_seg(path: Path, results: Sequence[PromptResult], volume: Volume, engine_info: Mapping[str, Any]) -> None:
    """Write the drawn results as one binary SEG that refers to the source images.

    Raises:
        UnfitSeriesError: the source images lack what a SEG must copy, or have it in a form that no SEG may have.
        OutputError: nothing is drawn, or the source images are gone.
    """
    import highdicom as hd
    import pydicom

    numbered = [(n, result) for n, result in enumerate(results, 1) if is_drawn(result)]
    if not numbered:
        raise OutputError("No structure was found, and a DICOM SEG needs at least one voxel; write a .seg.nrrd file instead.")
    try:
        images = [pydicom.dcmread(name, stop_before_pixels=True) for name in volume.dicom_files]
    except (OSError, pydicom.errors.InvalidDicomError) as error:
        raise OutputError(f"The source images of the DICOM SEG cannot be read again ({error}); put them back.") from error
    pixels = np.stack([result.mask for _, result in numbered], axis=-1)
    if len(images) == 1 and int(images[0].get("NumberOfFrames") or 1) > 1:
        # the volume's slices are ordered by position, highdicom wants the order of the frames
        order = stack_planes(frame_planes(images[0], volume.source), volume.source).order
        pixels = pixels[np.argsort(order)]
    names = segment_names([result for _, result in numbered])
    model = str(engine_info.get("name") or "RefSAM3D")
    version = str(engine_info.get("version") or __version__)
    descriptions = [
        _description(hd, number, name, n, result, volume.geometry, engine_info)
        for number, (name, (n, result)) in enumerate(zip(names, numbered, strict=True), 1)
    ]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # highdicom's remarks on a patient's name would print it
            seg = hd.seg.Segmentation(
                source_images=images,
                pixel_array=pixels,
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=descriptions,
                series_instance_uid=hd.UID(),
                series_number=int(images[0].get("SeriesNumber") or 0) % 10_000 + 10_000,
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer="RefSAM3D",
                manufacturer_model_name=model[:64],
                software_versions=version[:64],
                device_serial_number=str(engine_info.get("sha256") or "0")[:64],
                content_label="REFSAM3D",
                series_description=f"RefSAM3D {model}"[:64],
            )
            seg.save_as(path)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError, struct.error) as error:
        # The packages' own words hold values, which may name the patient: "Unable to convert '17/05/2024'". So would a chained traceback.
        names = unfit_attributes(images[0], str(error))
        log.debug("no SEG: %s, %s", type(error).__name__, names)
        cause = f"missing or not in DICOM's form: {', '.join(names)}" if names else f"refused by highdicom: {type(error).__name__}"
        raise UnfitSeriesError(f"The DICOM series cannot carry a SEG ({cause}); correct the series, or write a .seg.nrrd file instead.") from None


def unfit_attributes(image: Any, words: str = "") -> list[str]:
    """Names of the attributes that a SEG copies and that ``image`` lacks or has in another form; never their values.

    Args:
        words: of the package that refused: an attribute or tag that it names is added.
    """
    from pydicom.datadict import keyword_for_tag, tag_for_keyword

    named = [name for name in re.findall(r"has no attribute '(\w+)'", words) if tag_for_keyword(name) is not None]
    named += [keyword_for_tag(int(group + element, 16)) for group, element in re.findall(r"^With tag \(([0-9A-Fa-f]{4}), ?([0-9A-Fa-f]{4})\)", words)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they have the values too
        named += [name for name in _COPIED if not _is_fit(image, name)]
    return list(dict.fromkeys(filter(None, named)))


def _is_fit(image: Any, name: str) -> bool:
    from pydicom.valuerep import DA, TM

    try:
        element = image[name]
        text = "" if element.value is None else str(element.value)
        if element.VR in ("DA", "TM"):
            (DA if element.VR == "DA" else TM)(text)
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError):
        return False
    return bool(text) if name.endswith("UID") else name != "PatientSex" or text in ("", "M", "F", "O")


def _description(hd: Any, number: int, name: str, label: int, result: PromptResult, geometry: Geometry, info: Mapping[str, Any]) -> Any:
    codes = {key: hd.sr.CodedConcept(value=c[1], scheme_designator=c[0], meaning=c[2]) for key, c in terminology_of(result, info).items()}
    tags = segment_tags(result, label, info)
    algorithm = hd.AlgorithmIdentificationSequence(
        name=tags["DICOM.SegmentAlgorithmName"],
        version=tags["RefSAM3D.Version"][:64],
        family=hd.sr.CodedConcept(value="123109", scheme_designator="DCM", meaning="Artificial Intelligence"),
    )
    grid = {"shape_dhw": geometry.shape_dhw, "ijk_to_ras": geometry.ijk_to_ras.tolist()}
    algorithm[0].AlgorithmParameters = json.dumps(tags | {_GRID: grid}, ensure_ascii=True)
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=codes["category"],
        segmented_property_type=codes["type"],
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues(tags["DICOM.SegmentAlgorithmType"]),
        algorithm_identification=algorithm,
        tracking_uid=hd.UID(),
        tracking_id=name[:64],
        display_color=hd.color.CIELabColor.from_rgb(*result.colour),
    )
    if "modifier" in codes:
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [codes["modifier"]]
    description.SegmentDescription = f"prompt: {_ascii(result.prompt)}; verdict: {tags['RefSAM3D.Verdict']}"[:1024]
    return description


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode().replace("\\", "/")


def read_dicom_seg(path: Path) -> tuple[list[tuple[str, np.ndarray, dict[str, str]]], Geometry]:
    """Name, mask and tags of each segment, and the grid: the image's for our own files, that of the slices it has for others.

    Raises:
        InputError: no SEG, or one whose slices lie on no regular grid.
    """
    try:
        import pydicom
    except ImportError as error:
        raise InputError(f"'{path}' needs the package pydicom; install it with: pip install pydicom.") from error
    try:
        data = pydicom.dcmread(path)
        kind = str(data.get("SegmentationType", ""))
        if data.get("Modality") != "SEG" or kind not in ("BINARY", "FRACTIONAL"):
            raise InputError(f"'{path}' is no binary DICOM SEG (it is {data.get('Modality', 'of no modality')} {kind}); give a segmentation.")
        frames = data.pixel_array.reshape(-1, int(data.Rows), int(data.Columns))
        planes = frame_planes(data, str(path))
        shared = data.SharedFunctionalGroupsSequence[0]
        owners = [functional_group(frame, shared, "SegmentIdentificationSequence") for frame in data.PerFrameFunctionalGroupsSequence]
        numbers = [int(owner.ReferencedSegmentNumber) for owner in owners]
    except (pydicom.errors.InvalidDicomError, OSError, EOFError, AttributeError, ValueError) as error:
        raise InputError(f"The DICOM SEG '{path}' cannot be read, it is damaged or truncated; fetch it again.") from error
    if kind == "FRACTIONAL":
        frames = frames.astype(np.uint16) * 2 > int(data.get("MaximumFractionalValue", 255))  # twice a byte is no byte
    parameters = {int(segment.SegmentNumber): _parameters(segment) for segment in data.SegmentSequence}
    geometry = _stored_grid(parameters.values()) or _grid_of(planes, str(path))
    masks = {number: np.zeros(geometry.shape_dhw, dtype=bool) for number in parameters}
    for frame, plane, number in zip(frames, planes, numbers, strict=True):
        k = _slice_of(geometry, plane, path)
        masks[number][k] |= frame.astype(bool)
    segments = []
    for segment in data.SegmentSequence:
        tags = {key: str(text) for key, text in parameters[int(segment.SegmentNumber)].items() if key != _GRID}
        segments.append((str(segment.SegmentLabel), masks[int(segment.SegmentNumber)], tags))
    return segments, geometry


def _parameters(segment: Any) -> dict[str, Any]:
    algorithm = getattr(segment, "SegmentationAlgorithmIdentificationSequence", None)
    try:
        found = json.loads(algorithm[0].AlgorithmParameters) if algorithm else {}
    except (AttributeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _stored_grid(parameters: Any) -> Geometry | None:
    for found in parameters:
        grid = found.get(_GRID)
        if isinstance(grid, dict):
            try:
                depth, height, width = (int(n) for n in grid["shape_dhw"])
                return Geometry((depth, height, width), np.array(grid["ijk_to_ras"], dtype=np.float64))
            except (KeyError, TypeError, ValueError, InputError):
                return None
    return None


def _grid_of(planes: Sequence[Plane], source: str) -> Geometry:
    """Smallest grid with all slices; empty slices between them may be missing, so the step is the smallest distance."""
    first = planes[0]
    normal = np.cross(first.orientation[:3], first.orientation[3:])
    places = sorted({tuple(p.position) for p in planes}, key=lambda position: float(np.dot(position, normal)))
    along = np.array(places) @ normal
    if len(places) == 1 or np.diff(along).max() < 1e-3:
        return stack_planes([first], source).geometry
    steps = np.diff(along)
    at = int(np.argmin(np.where(steps > 1e-3, steps, np.inf)))
    count = math.floor((along[-1] - along[0]) / steps[at] + 0.5) + 1
    matrix = np.eye(4)
    matrix[:3, 0] = np.array(first.orientation[:3]) * first.spacing[1]
    matrix[:3, 1] = np.array(first.orientation[3:]) * first.spacing[0]
    matrix[:3, 2] = (np.array(places[-1]) - np.array(places[0])) / (count - 1)
    matrix[:3, 3] = places[0]
    return Geometry((count, *first.size), RAS_LPS @ matrix)


def _slice_of(geometry: Geometry, plane: Plane, path: Path) -> int:
    i, j, k = np.linalg.solve(geometry.ijk_to_lps, [*plane.position, 1.0])[:3]
    nearest = round(k)
    if max(abs(i), abs(j)) > MAX_OFF or abs(k - nearest) > MAX_OFF or not 0 <= nearest < geometry.shape_dhw[0]:
        raise InputError(f"A slice of '{path}' lies beside its regular grid (slice {k:.2f}); convert it with the image in Slicer.")
    return nearest
