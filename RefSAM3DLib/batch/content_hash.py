"""Hashes that say whether an input, a request or a mask is the same as before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from ..geometry import Geometry

#: Bytes read at once: large enough for full disk speed, small beside any volume.
_BLOCK = 1 << 20


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes. MetaImage and NRRD headers that point to a data file: see :func:`hash_files`."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as handle:
            while block := handle.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}; check that it is still there.") from error
    return digest.hexdigest()


def hash_files(paths: Iterable[Path]) -> str:
    """One hash of several files that does not depend on their names, folder or order (a DICOM series that was moved)."""
    digests = sorted(hash_file(path) for path in paths)
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def detached_data(header: Path) -> list[Path]:
    """Files that an ``.mhd`` or ``.nhdr`` header names as its data, so that a change there counts as a change."""
    if header.suffix.lower() not in (".mhd", ".nhdr"):
        return []
    named = []
    for line in header.read_text(encoding="latin-1").splitlines():
        key, _, value = line.replace("=", ":", 1).partition(":")
        if key.strip().lower() in ("elementdatafile", "data file", "datafile") and value.strip().upper() not in ("LOCAL", "LIST"):
            named.append(header.parent / value.strip())
    return [path for path in named if path.is_file()]


def hash_request(**parts: Any) -> str:
    """Hash of plain values (prompts, options, model): equal hashes mean that the same work was asked for."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def hash_voxels(array: np.ndarray, geometry: Geometry) -> str:
    """SHA-256 of an image's voxels and their grid to 0.1 micrometre, whatever file they came from."""
    import numpy as np

    digest = hashlib.sha256(repr((array.dtype.str, tuple(int(n) for n in array.shape))).encode())
    digest.update((np.round(np.asarray(geometry.ijk_to_ras, dtype=np.float64), 4) + 0.0).tobytes())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def hash_mask(mask: np.ndarray, geometry: Geometry) -> str:
    """SHA-256 of a bool mask (D, H, W) and its grid to 0.1 micrometre: equal for equal voxels however they were stored."""
    import numpy as np

    digest = hashlib.sha256(repr(tuple(int(n) for n in mask.shape)).encode())
    digest.update((np.round(np.asarray(geometry.ijk_to_ras, dtype=np.float64), 4) + 0.0).tobytes())
    digest.update(np.packbits(np.ascontiguousarray(mask, dtype=bool)).tobytes())
    return digest.hexdigest()
