"""One set of weights that answers prompts: a checkpoint, or what an adapter makes of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..checkpoint import Calibration, Checkpoint
from ..modeling.refsam3d import PromptFeatures
from ..modeling.text_encoder import pad_tokens
from ..text.tokenizer import PromptTokenizer


class Branch:
    """A network with its words and its calibration.

    An adapter's network is a branch beside its base, which answers for the structures that the adapter was tuned on; the base goes on to
    answer all others, so an adapter cannot change them [ours; the paper knows one set of weights].

    Args:
        base: the branch that an adapter belongs to; parameters that the adapter leaves as they are share its memory.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device, base: Branch | None = None) -> None:
        self.checkpoint = checkpoint
        self.model = checkpoint.build().to(device)
        if base is not None:
            shared = dict(base.model.named_parameters())
            for name, parameter in self.model.named_parameters():
                if checkpoint.state[name] is base.checkpoint.state[name]:
                    parameter.data = shared[name].data
        self.tokenizer = PromptTokenizer(checkpoint.tokens)
        self._texts: dict[str, PromptFeatures] = {}

    def move_to(self, device: torch.device) -> None:
        """Network to another device; texts are read again there."""
        self.model.to(device)
        self.forget_texts()

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
