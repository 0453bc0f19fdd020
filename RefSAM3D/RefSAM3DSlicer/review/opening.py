"""What a review can be opened on: the output folder of a batch, or the segmentation of the scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from RefSAM3DLib.errors import InputError

from .scene_arrays import exportCurrent, geometryOf


def batchFolder(text: str) -> Path:
    """The folder that was chosen.

    Raises:
        InputError: none was.
    """
    if not str(text).strip():
        raise InputError(_("No folder is chosen; choose the output folder of a batch."))
    return Path(text)


def folderOfCurrent(parameters: Any, reviewer: str, folderText: str) -> tuple[Path, str]:
    """Write image and output segmentation of the panel as a folder to review; the folder, and the case's name in it.

    Raises:
        RefSAM3DError: nothing is chosen, the name is empty, or the folder cannot be used.
    """
    from RefSAM3DLib.batch.cases import slug
    from RefSAM3DLib.batch.content_hash import hash_voxels
    from RefSAM3DLib.review import add_segmentation, check_review_folder
    from RefSAM3DLib.review.verdicts import clean_reviewer

    if parameters is None or parameters.inputVolume is None or parameters.segmentation is None:
        raise InputError(_("Choose the volume above and the segmentation under Advanced, Output."))
    clean_reviewer(reviewer)
    if not folderText.strip():
        raise InputError(_("No folder is chosen; choose an empty folder for the record of the review."))
    folder, name = Path(folderText), parameters.segmentation.GetName()
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "batch.json").is_file():
        raise InputError(_("The folder '{folder}' holds other files; choose an empty or a new one.").format(folder=folder))
    check_review_folder(folder)
    volumeNode = parameters.inputVolume
    digest = hash_voxels(slicer.util.arrayFromVolume(volumeNode), geometryOf(volumeNode))
    # Named by its voxels: another patient's image of the same name must not replace the one that decisions were made on.
    place = folder.with_name(folder.name + "-input") / f"{slug(name)}-{digest[:8]}"
    image, path = exportCurrent(volumeNode, parameters.segmentation, place)
    return folder, add_segmentation(folder, image, path, name=name)


def offerDrafts(section: Any) -> None:
    """Edits that nobody decided, other than the one that is open and shown."""
    session, current = section.session, section.view.item
    waiting = [d for d in session.drafts() if current is None or (d.case, d.label) != (current.case, current.label)]
    if not waiting:
        return
    items = [session.find(f"{draft.case}/{draft.label}") for draft in waiting]
    names = {f"{entry.name or entry.case}, {entry.structure}": entry for entry in items}
    actions = {name: lambda entry=entry: section.attempt(lambda: section.go(entry)) for name, entry in names.items()}
    section.addMessage("info", _("There are edits that were not decided. Go to:"), actions)
