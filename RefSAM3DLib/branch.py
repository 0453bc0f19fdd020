"""One set of weights that answers prompts: a checkpoint, or what an adapter makes of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .checkpoint import Calibration, Checkpoint
from .modeling.refsam3d import PromptFeatures
from .modeling.text_encoder import pad_tokens
from .text.tokenizer import PromptTokenizer


class Branch:
    """A network with its words and its calibration.

    An adapter's network is a branch beside its base, which answers for the structures that the adapter was tuned on; the base goes on to
    answer all others, so an adapter cannot change them [ours; the paper knows one set of weights].

    Args:
        base: the branch that an adapter belongs to; parameters that the adapter leaves as they are share its memory.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device, base: Branch | None = None) -> None:
        self.checkpoint, self._base = checkpoint, base
        self.tokenizer = PromptTokenizer(checkpoint.tokens)
        self._texts: dict[str, PromptFeatures] = {}
        self.model = checkpoint.build()
        self.move_to(device)

    def move_to(self, device: torch.device) -> None:
        """Network to another device; texts are read again there."""
        self._share()
        self.model.to(device)
        self.forget_texts()

    def _share(self) -> None:
        """Take the base's own tensors, wherever it has moved to, for what the adapter leaves as it is."""
        if self._base is None:
            return
        own, kept = self._base.checkpoint.state, dict(self._base.model.named_parameters())
        for name, parameter in self.model.named_parameters():
            if self.checkpoint.state[name] is own[name]:
                parameter.data = kept[name].data

    def forget_texts(self) -> None:
        """Read every text anew."""
        self._texts.clear()

    def calibration(self, grid: str) -> Calibration:
        """Presence calibration of a grid."""
        return self.checkpoint.calibration.get(grid, Calibration())

    def text_features(self, texts: Sequence[str]) -> PromptFeatures:
        """Encode texts, each once; padded to the longest."""
        new = [t for t in dict.fromkeys(texts) if t not in self._texts]
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            for text in new:  # one by one: a text's features must not depend on its neighbours
                ids = pad_tokens([self.tokenizer.encode(text)], self.checkpoint.config.text.context_length)
                self._texts[text] = self.model.cache_words(self.model.encode_text(ids.to(device)))
            return PromptFeatures.stack([self._texts[t] for t in texts])
