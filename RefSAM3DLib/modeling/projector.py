"""The cross-modal MLP from text to SAM's prompt space (Eq. III)."""

from __future__ import annotations

from torch import Tensor, nn


class CrossModalProjector(nn.Module):
    """``F_i = MLP(f_i)``: the same MLP for every word embedding and for the sentence vector (Gao and Lu, Eq. III).

    Linear(in, in / 2), ReLU, Linear(in / 2, out); the shape is RefSAM's. ``out`` is SAM's prompt width 256 in ``vit_b``.

    Shapes: (..., C_e) -> (..., prompt_dim).
    """

    def __init__(self, text_dim: int, prompt_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(text_dim, text_dim // 2), nn.ReLU(), nn.Linear(text_dim // 2, prompt_dim))

    def forward(self, text: Tensor) -> Tensor:
        """Project words or sentences."""
        return self.layers(text)
