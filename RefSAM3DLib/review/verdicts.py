"""What a reviewer can say about a result, and why."""

from __future__ import annotations

import json
import unicodedata
from enum import Enum
from pathlib import Path

from ..errors import InputError

#: Offered unless the folder has its own ``review/reasons.json`` (a list of texts). Free text is always possible.
DEFAULT_REASONS = (
    "wrong structure",
    "wrong side",
    "leaks into neighbours",
    "incomplete",
    "structure is absent",
    "image artefact",
    "image not usable",
)
_MAX_NAME = 80
_MAX_TEXT = 2000


class ReviewVerdict(str, Enum):
    """A decision. The first three are final; a re-prompted or skipped item comes back."""

    ACCEPT = "accept"
    ACCEPT_EDITED = "accept_edited"
    REJECT = "reject"
    REPROMPT = "reprompt"
    SKIP = "skip"

    @property
    def is_final(self) -> bool:
        """Whether the item is done with."""
        return self in (ReviewVerdict.ACCEPT, ReviewVerdict.ACCEPT_EDITED, ReviewVerdict.REJECT)


#: Words for tables, by the value of the last decision; "" is an item nobody decided.
STATUS_WORDS = {
    "": "open",
    "accept": "accepted",
    "accept_edited": "accepted with edits",
    "reject": "rejected",
    "reprompt": "asked again",
    "skip": "skipped",
    "changed": "changed since review",
}


def load_reasons(folder: Path) -> tuple[str, ...]:
    """Reasons to offer for a rejection: the folder's own list, or the default one.

    Raises:
        InputError: the list is there and is no list of texts.
    """
    path = Path(folder) / "review" / "reasons.json"
    if not path.exists():
        return DEFAULT_REASONS
    try:
        reasons = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"The list of reasons '{path}' cannot be read ({error}); correct it or remove it.") from error
    if not isinstance(reasons, list) or not reasons or not all(isinstance(r, str) and r.strip() for r in reasons):
        raise InputError(f"The list of reasons '{path}' is no list of texts; write it as [\"wrong side\", ...].")
    return tuple(r.strip() for r in reasons)


def clean_reviewer(name: str) -> str:
    """A reviewer's name as it is recorded.

    Raises:
        InputError: it is empty, longer than 80 characters, or has control characters.
    """
    name = unicodedata.normalize("NFC", name or "").strip()
    if not name:
        raise InputError("The reviewer's name is empty; enter a name: each decision is recorded with it.")
    if len(name) > _MAX_NAME or any(unicodedata.category(c).startswith("C") for c in name):
        raise InputError(f"The reviewer's name has {len(name)} characters or control characters; use up to {_MAX_NAME} visible ones.")
    return name


def clean_text(text: str, what: str) -> str:
    """A comment or reason as it is recorded; surrogates that no file can hold are replaced."""
    text = (text or "").encode("utf-8", "replace").decode("utf-8").strip()
    if len(text) > _MAX_TEXT:
        raise InputError(f"The {what} has {len(text)} characters; shorten it to {_MAX_TEXT}.")
    return text
