"""Results to files and back, by the ending of the name: ``.seg.nrrd``, a label map, or DICOM SEG.

Importing this module loads no imaging library.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .atomic import write_aside
from .errors import InputError, OutputError
from .geometry import Geometry
from .image_files import itk_name
from .provenance import PREFIX, is_drawn, segment_names
from .types import Placed, PromptResult, Volume

#: Label maps and probability volumes. All but NRRD keep right angles only.
LABEL_MAP_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
SEGMENTATION_ENDINGS = (".seg.nrrd", *LABEL_MAP_ENDINGS, ".dcm")
#: NIfTI stores numbers of 24 bits: a grid may come back this far from its place, as a share of a voxel.
MAX_MOVE_VOXELS = 0.01
_MAX_COSINE = 1e-5

#: Name, bool mask (D, H, W) and tags.
Segment = tuple[str, np.ndarray, dict[str, str]]


def check_segmentation_output(path: str | Path, volume: Volume | None = None) -> None:
    """Refuse a name that no segmentation can have, and with ``volume`` a format that cannot hold its grid: before any work.

    Raises:
        OutputError: unknown ending, ``.dcm`` without DICOM input or without highdicom, or a sheared grid in NIfTI or MetaImage.
    """
    name = Path(path).name.lower()
    if not name.endswith(SEGMENTATION_ENDINGS):
        raise OutputError(f"The output '{path}' has an ending that is not written; use one of {', '.join(SEGMENTATION_ENDINGS)}.")
    if name.endswith(".dcm"):
        from .dicom_seg import check_highdicom

        check_highdicom(path)
        if volume is not None and not volume.dicom_files:
            raise OutputError(f"'{path}' would be a DICOM SEG, which needs a DICOM series as input; write a .seg.nrrd file instead.")
    elif volume is not None:
        _check_shear(path, volume.geometry)


def check_probability_output(path: str | Path, volume: Volume | None = None) -> None:
    """As :func:`check_segmentation_output`, for :func:`write_probability`."""
    name = Path(path).name.lower()
    if name.endswith(".seg.nrrd") or not name.endswith(LABEL_MAP_ENDINGS):
        raise OutputError(f"The probability volume '{path}' needs one of the endings {', '.join(LABEL_MAP_ENDINGS)} (no .seg.nrrd).")
    if volume is not None:
        _check_shear(path, volume.geometry)


def write_segmentation(
    path: str | Path,
    results: Sequence[PromptResult],
    volume: Volume,
    engine_info: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Write the results as one file; absent and unknown ones have no voxels and make no segment.

    ``.seg.nrrd`` holds overlaps, names, colours, terminology and tags. Label maps hold value n for the n-th of all results.
    ``.dcm`` is a DICOM SEG that refers to the series of ``volume.dicom_files``.

    Args:
        engine_info: ``name`` and ``sha256`` of the model, ``device``, ``version``, and ``adapter`` and ``vocabulary`` if there are.

    Raises:
        OutputError: see :func:`check_segmentation_output`; overlaps in a label map; no voxels for a DICOM SEG; a full disk.
    """
    path = Path(path)
    results = list(results)
    check_segmentation_output(path, volume)
    for result in results:
        if result.mask.shape != volume.geometry.shape_dhw:
            raise OutputError(
                f"The mask of '{result.prompt}' has shape {result.mask.shape}, the image {volume.geometry.shape_dhw}; run it again."
            )
    name = path.name.lower()
    if name.endswith(".seg.nrrd"):
        from .seg_nrrd import write_seg_nrrd

        with write_aside(path, overwrite) as aside:
            write_seg_nrrd(aside, results, volume.geometry, engine_info)
    elif name.endswith(".dcm"):
        from .dicom_seg import write_dicom_seg

        with write_aside(path, overwrite) as aside:
            write_dicom_seg(aside, results, volume, engine_info)
    else:
        labels = label_map(results, volume.geometry.shape_dhw)
        names = segment_names(results)
        fields = {f"{PREFIX}Label{n}": names[n - 1] for n, result in enumerate(results, 1) if is_drawn(result)}
        _write_image(path, labels, volume.geometry, fields, overwrite)


def label_map(results: Sequence[PromptResult], shape: tuple[int, int, int]) -> np.ndarray:
    """(D, H, W) with value n where the n-th result is, in uint8 or uint16.

    Raises:
        OutputError: two results overlap.
    """
    labels = np.zeros(shape, dtype=np.uint8 if len(results) < 256 else np.uint16)
    for n, result in enumerate(results, 1):
        if not is_drawn(result):
            continue
        before = labels[result.mask]
        if before.any():
            other = results[int(before.max()) - 1]
            raise OutputError(
                f"'{other.prompt}' and '{result.prompt}' overlap in {np.count_nonzero(before)} voxels, which a label map cannot hold;"
                " write a .seg.nrrd file instead."
            )
        labels[result.mask] = n
    return labels


def write_probability(path: str | Path, results: Sequence[PromptResult], volume: Volume, overwrite: bool = False) -> None:
    """Write probabilities, 0 to 1, as 32-bit floats on the grid of the volume.

    One result gives a 3D image. Several give a 4D file with one 3D frame per result in the order of the results, zeros where a result
    has none (absent, unknown): frame n belongs to label n. In NRRD the frames are a "list" axis, which Slicer loads as a sequence.

    NRRD is written slice by slice, so it takes no memory to speak of; the other formats are ITK's, which holds all frames once.

    Raises:
        OutputError: no result has a probability, one has another shape than the volume, or as :func:`check_probability_output`.
    """
    path = Path(path)
    check_probability_output(path, volume)
    kept: list[np.ndarray | Placed | None] = [vars(result)["probability"] for result in results]  # the field itself would make each whole, and keep it
    if all(given is None for given in kept):
        raise OutputError(f"No result has a probability, so '{path}' was not written; ask for at least one known structure.")
    shape = volume.geometry.shape_dhw
    for result, given in zip(results, kept, strict=True):
        if given is not None and given.shape != shape:
            raise OutputError(f"The probability of '{result.prompt}' has shape {given.shape}, the image {shape}; run it again.")
    names = segment_names(list(results))
    fields = {f"{PREFIX}Label{n}": name for n, name in enumerate(names, 1)}
    with write_aside(path, overwrite) as aside:
        if path.name.lower().endswith(".nrrd"):
            _write_probability_nrrd(aside, kept, volume.geometry, fields)
        else:
            _write_with_itk(aside, len(kept), lambda n: _slices_of(kept[n], 0, shape), volume.geometry)


def _slices_of(given: np.ndarray | Placed | None, start: int, shape: tuple[int, ...]) -> np.ndarray:
    """``shape`` slices of a probability from ``start`` on, as 32-bit floats; a :class:`Placed` one is not made whole."""
    out = np.zeros(shape, dtype=np.float32)
    if isinstance(given, Placed):
        k0, k1, j0, j1, i0, i1 = given.box
        low, high = max(k0, start), min(k1, start + len(out))
        if low < high:
            out[low - start : high - start, j0:j1, i0:i1] = given.values[low - k0 : high - k0]
    elif given is not None:
        out[...] = given[start : start + len(out)]
    return out


def _write_probability_nrrd(path: Path, kept: Sequence[np.ndarray | Placed | None], geometry: Geometry, fields: Mapping[str, str]) -> None:
    """The file that pynrrd would write, without its two copies of everything: its header of one voxel, the true size, and the voxels slice by slice."""
    import nrrd

    from .seg_nrrd import COMPRESSION

    several = len(kept) > 1
    depth, height, width = geometry.shape_dhw
    sizes = [*([len(kept)] if several else []), width, height, depth]
    begun = io.BytesIO()
    nrrd.write(begun, np.zeros((1,) * len(sizes), dtype=np.float32), _nrrd_header(geometry, fields, several), index_order="C")
    header, end, _ = begun.getvalue().partition(b"\n\n")
    before, after = b"\nsizes: " + b" ".join([b"1"] * len(sizes)) + b"\n", f"\nsizes: {' '.join(map(str, sizes))}\n".encode()
    assert header.count(before) == 1
    compressor = zlib.compressobj(COMPRESSION, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    with open(path, "wb") as handle:
        handle.write(header.replace(before, after) + end)
        for k in range(depth):
            slices = [_slices_of(given, k, (1, height, width)) for given in kept]
            handle.write(compressor.compress((np.stack(slices, axis=-1) if several else slices[0]).tobytes()))
        handle.write(compressor.flush())


def read_segmentation(path: str | Path, geometry: Geometry | None = None) -> tuple[list[Segment], Geometry]:
    """Segments of a ``.seg.nrrd``, a DICOM SEG or a label map, and their grid.

    Args:
        geometry: grid of the image. Files may hold only a part of it (Slicer crops, DICOM leaves out empty slices); the masks are put
            where they belong in it.

    Raises:
        InputError: unreadable, of another kind, or not on the voxels of ``geometry``.
    """
    path = Path(path)
    name = path.name.lower()
    if not path.is_file():
        raise InputError(f"The segmentation '{path}' does not exist; check its name.")
    if name.endswith(".seg.nrrd"):
        from .seg_nrrd import read_seg_nrrd

        segments, grid = read_seg_nrrd(path)
    elif name.endswith(".dcm"):
        from .dicom_seg import read_dicom_seg

        segments, grid = read_dicom_seg(path)
    else:
        segments, grid = _read_label_map(path)
    if geometry is None or grid == geometry:
        return segments, grid
    return [(title, place_in(mask, grid, geometry, path), tags) for title, mask, tags in segments], geometry


def place_in(mask: np.ndarray, grid: Geometry, geometry: Geometry, source: object) -> np.ndarray:
    """A mask of a cropped grid on the whole one; voxels outside are dropped if they are empty.

    Raises:
        InputError: the grids do not share their voxels, or a part of the mask lies outside.
    """
    offset = np.linalg.solve(geometry.ijk_to_ras, grid.ijk_to_ras[:, 3])[:3]
    start = np.round(offset).astype(int)
    step = np.linalg.solve(geometry.ijk_to_ras[:3, :3], grid.ijk_to_ras[:3, :3])
    if np.abs(offset - start).max() > MAX_MOVE_VOXELS or np.abs((step - np.eye(3)) * grid.shape_dhw[::-1]).max() > MAX_MOVE_VOXELS:
        raise InputError(f"'{source}' has another grid than the image; export the segmentation with the image as its reference.")
    placed = np.zeros(geometry.shape_dhw, dtype=bool)
    low = np.maximum(start[::-1], 0)
    high = np.minimum(start[::-1] + grid.shape_dhw, geometry.shape_dhw)
    if (high > low).all():
        target = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        placed[target] = mask[tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start[::-1], strict=True))]
    if np.count_nonzero(placed) != np.count_nonzero(mask):
        raise InputError(f"A part of '{source}' lies outside the image; check that they belong together.")
    return placed


def read_labels(path: Path) -> tuple[np.ndarray, Geometry]:
    """Values and grid of a label map.

    Raises:
        InputError: unreadable, truncated, no scalar 3D image, or with fractional values.
    """
    from .image_files import read_image_file

    array, grid, _ = read_image_file(path)
    if array.dtype.kind == "f" and not np.array_equal(array, np.round(array)):
        raise InputError(f"'{path}' has fractional values, so it is no label map; give a .seg.nrrd file or one integer per voxel.")
    return array, grid


def _read_label_map(path: Path) -> tuple[list[Segment], Geometry]:
    array, grid = read_labels(path)
    names = _label_names(path)
    segments: list[Segment] = []
    for value in np.unique(array):
        if value != 0:
            label = int(value)
            segments.append((names.get(label, f"label {label}"), array == value, {f"{PREFIX}Label": str(label)}))
    return segments, grid


def _label_names(path: Path) -> dict[int, str]:
    if not path.name.lower().endswith(".nrrd"):
        return {}
    import nrrd

    mark = f"{PREFIX}Label"
    header = nrrd.read_header(str(path))
    return {int(key[len(mark) :]): text for key, text in header.items() if key.startswith(mark) and key[len(mark) :].isdigit()}


def is_sheared(geometry: Geometry) -> bool:
    """Whether the axes are not at right angles: ITK writes such a grid as NRRD alone, and straightens it without a word in other formats."""
    unit = geometry.directions
    return bool(np.abs(unit.T @ unit - np.eye(3)).max() > _MAX_COSINE)


def _check_shear(path: str | Path, geometry: Geometry) -> None:
    if not Path(path).name.lower().endswith(".nrrd") and is_sheared(geometry):
        raise OutputError(f"The image is sheared (a tilted gantry?), which '{path}' cannot keep; write a .seg.nrrd or .nrrd file instead.")


def _write_image(path: Path, array: np.ndarray, geometry: Geometry, fields: Mapping[str, str], overwrite: bool) -> None:
    with write_aside(path, overwrite) as aside:
        if path.name.lower().endswith(".nrrd"):
            _write_nrrd(aside, array, geometry, fields)
        else:
            _write_with_itk(aside, 1, lambda _: array, geometry)


def _write_nrrd(path: Path, array: np.ndarray, geometry: Geometry, fields: Mapping[str, str]) -> None:
    import nrrd

    from .seg_nrrd import COMPRESSION

    nrrd.write(str(path), array, _nrrd_header(geometry, fields), compression_level=COMPRESSION, index_order="C")


def _nrrd_header(geometry: Geometry, fields: Mapping[str, str], is_list: bool = False) -> dict[str, Any]:
    lps = geometry.ijk_to_lps
    directions, kinds = lps[:3, :3].T, ["domain"] * 3
    if is_list:
        directions, kinds = np.vstack([np.full(3, np.nan), directions]), ["list", *kinds]
    header = {"space": "left-posterior-superior", "space directions": directions, "space origin": lps[:3, 3], "kinds": kinds}
    return header | {"encoding": "gzip"} | dict(fields)


def _write_with_itk(path: Path, count: int, frame: Callable[[int], np.ndarray], geometry: Geometry) -> None:
    """One image, or several of 32-bit floats as the frames of a fourth axis; ``frame(n)`` is asked for one (D, H, W) at a time."""
    from .image_files import quiet_itk

    with quiet_itk() as sitk:
        if count == 1:
            image = sitk.GetImageFromArray(frame(0))
        else:
            image = sitk.Image([*geometry.shape_dhw[::-1], count], sitk.sitkFloat32)
            for n in range(count):
                image[:, :, :, n] = sitk.GetImageFromArray(frame(n))
        axes = image.GetDimension()
        direction, spacing, origin = np.eye(axes), [1.0] * axes, [0.0] * axes
        direction[:3, :3] = np.diag([-1.0, -1.0, 1.0]) @ geometry.directions
        spacing[:3], origin[:3] = geometry.spacing_xyz_mm, geometry.ijk_to_lps[:3, 3].tolist()
        image.SetDirection(direction.ravel().tolist())
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
        try:
            sitk.WriteImage(image, itk_name(path), useCompression=True)
            reader = sitk.ImageFileReader()
            reader.SetFileName(itk_name(path))
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise OutputError("The output could not be written, the disk may be full; free some space or choose another folder.") from error
        axes = len(reader.GetSize())
        direction = np.array(reader.GetDirection()).reshape(axes, axes)[:3, :3]
        written = Geometry.from_lps(geometry.shape_dhw, reader.GetOrigin()[:3], reader.GetSpacing()[:3], direction)
    if _moved(written, geometry) > MAX_MOVE_VOXELS:
        raise OutputError("The numbers of this format are too coarse for the place of the image; write a .seg.nrrd or .nrrd file instead.")


def _moved(one: Geometry, other: Geometry) -> float:
    """Largest distance between the corners of two grids, in voxels."""
    depth, height, width = other.shape_dhw
    corners = np.array([(i, j, k, 1.0) for i in (0, width) for j in (0, height) for k in (0, depth)]).T
    apart = np.linalg.norm(((one.ijk_to_ras - other.ijk_to_ras) @ corners)[:3], axis=0).max()
    return float(apart / min(other.spacing_xyz_mm))
