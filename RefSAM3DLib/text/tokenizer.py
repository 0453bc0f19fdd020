"""CLIP's byte-pair tokens, reduced to the rows that a small tower keeps."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

PADDING, UNKNOWN = 0, 1
RESERVED = 2


@lru_cache(maxsize=1)
def clip_tokenizer() -> Any:
    """open_clip's byte-pair tokenizer (its merges ship with the package: no download).

    Its one module is run without the package around it, which would import torchvision, timm and with them torch's compiler for
    nothing: three fifths of the time from start to the first answer.
    """
    # A release that laid it out in another way is asked as usual; where it is missing altogether, that import says so.
    with contextlib.suppress(ImportError, AttributeError, FileNotFoundError):
        package = importlib.util.find_spec("open_clip")
        for folder in (package.submodule_search_locations or ()) if package is not None else ():
            spec = importlib.util.spec_from_file_location("RefSAM3DLib.text.open_clip_tokenizer", Path(folder) / "tokenizer.py")
            if spec is not None and spec.loader is not None:
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                return module.SimpleTokenizer()
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def clip_ids(text: str) -> list[int]:
    """CLIP token ids of a text, with start and end."""
    tokenizer = clip_tokenizer()
    return [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]


def kept_tokens(texts: Iterable[str]) -> list[int]:
    """Sorted CLIP ids that occur in ``texts``: the rows worth storing."""
    return sorted({token for text in texts for token in clip_ids(text)})


class PromptTokenizer:
    """Text to token ids of a tower.

    Args:
        kept: CLIP ids with a row of their own, row = position + 2; row 0 is padding and row 1 stands for every other token.
            None for a published tower, whose rows are CLIP's.
    """

    def __init__(self, kept: Sequence[int] | None) -> None:
        self.kept = None if kept is None else tuple(kept)
        self._rows = {} if kept is None else {token: row + RESERVED for row, token in enumerate(kept)}

    def encode(self, text: str) -> list[int]:
        """Ids of one text."""
        ids = clip_ids(text)
        return ids if self.kept is None else [self._rows.get(token, UNKNOWN) for token in ids]
