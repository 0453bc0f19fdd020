"""CLIP's byte-pair tokens, reduced to the rows that a small tower keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

PADDING, UNKNOWN = 0, 1
RESERVED = 2


@lru_cache(maxsize=1)
def clip_tokenizer() -> Any:
    """open_clip's byte-pair tokenizer (its merges ship with the package: no download)."""
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
