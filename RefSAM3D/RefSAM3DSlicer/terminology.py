"""SNOMED CT terminology of a structure, in the words of Slicer's own terminology files where they have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import slicer

#: Slicer's recommended colour of a type without a colour of its own.
NO_COLOUR = (127, 127, 127)
#: Looked through in this order. The first has colours, the second has laterality for paired organs and many more types.
CONTEXTS = ("Segmentation category and type - 3D Slicer General Anatomy list", "Segmentation category and type - DICOM master list")
REGION_CONTEXT = "Anatomic codes - DICOM master list"
Code = tuple[str, str, str]
_NO_CODE: Code = ("", "", "")


def _field(code: Code) -> str:
    return "^".join(code) if code[1] else "^^"


def terminologyTag(codes: Mapping[str, Code]) -> tuple[str, tuple[int, int, int] | None]:
    """Tag ``TerminologyEntry`` and recommended colour for codes under "category", "type" and perhaps "modifier".

    A code that no list of this Slicer has keeps the DICOM list's name as context: viewers and the DICOM exporter read the codes themselves.
    Returns ("", None) without codes.
    """
    if "category" not in codes or "type" not in codes:
        return "", None
    category, kind, modifier = tuple(codes["category"]), tuple(codes["type"]), tuple(codes.get("modifier") or _NO_CODE)
    logic = slicer.modules.terminologies.logic()
    hits = [(context, found) for context in CONTEXTS if (found := _find(logic, context, category, kind, modifier)) is not None]
    context, codes3 = (hits[0][0], hits[0][1][0]) if hits else (CONTEXTS[-1], (category, kind, modifier))
    colour = next((found[1] for _context, found in hits if found[1]), None)
    return "~".join([context, *(_field(code) for code in codes3), REGION_CONTEXT, "^^", "^^"]), colour


def _find(logic: Any, context: str, category: Code, kind: Code, modifier: Code) -> tuple[tuple[Code, Code, Code], tuple[int, int, int] | None] | None:
    """The list's own spelling of the three codes and its colour, or None if the list lacks one of them."""
    nth = slicer.vtkSlicerTerminologyCategory()
    for c in range(logic.GetNumberOfCategoriesInTerminology(context)):
        logic.GetNthCategoryInTerminology(context, c, nth)
        if nth.GetCodeValue() == category[1]:
            break
    else:
        return None
    entry = slicer.vtkSlicerTerminologyType()
    for t in range(logic.GetNumberOfTypesInTerminologyCategory(context, nth)):
        logic.GetNthTypeInTerminologyCategory(context, nth, t, entry)
        if entry.GetCodeValue() == kind[1]:
            break
    else:
        return None
    colour = _colour(entry)
    spelled = _NO_CODE
    if modifier[1]:
        side = slicer.vtkSlicerTerminologyType()
        for m in range(logic.GetNumberOfTypeModifiersInTerminologyType(context, nth, entry)):
            logic.GetNthTypeModifierInTerminologyType(context, nth, entry, m, side)
            if side.GetCodeValue() == modifier[1]:
                colour, spelled = _colour(side) or colour, _code(side)
                break
        else:
            return None
    return (_code(nth), _code(entry), spelled), colour


def _code(entry: Any) -> Code:
    return entry.GetCodingSchemeDesignator(), entry.GetCodeValue(), entry.GetCodeMeaning()


def _colour(entry: Any) -> tuple[int, int, int] | None:
    rgb = tuple(int(v) for v in entry.GetRecommendedDisplayRGBValue())
    return None if rgb == NO_COLOUR else rgb  # type: ignore[return-value]
