"""Eq. I: identity at the start, then a mixture of 27 neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from RefSAM3DLib.modeling.adapter import Adapter3D

GRID = (5, 6, 7)


def test_new_adapter_is_the_identity() -> None:
    tokens = torch.randn(2, 210, 8)
    assert torch.equal(Adapter3D(8, 4)(tokens, GRID), tokens)


def test_adapter_mixes_only_the_3x3x3_neighbourhood(stir) -> None:
    adapter = stir(Adapter3D(8, 4))
    tokens = torch.randn(1, 210, 8)
    moved = tokens.clone().view(1, *GRID, 8)
    moved[0, 2, 3, 4] += 1
    difference = (adapter(moved.view(1, 210, 8), GRID) - adapter(tokens, GRID)).view(*GRID, 8).abs().amax(-1)
    changed = (difference > 1e-7).nonzero()
    assert len(changed) == 27
    assert (changed - torch.tensor([2, 3, 4])).abs().max() == 1


def test_adapter_is_the_equation(stir) -> None:
    adapter = stir(Adapter3D(8, 4))
    x = torch.randn(1, 210, 8)
    hidden = (x @ adapter.down.weight.T + adapter.down.bias).view(1, *GRID, 4).permute(0, 4, 1, 2, 3)
    hidden = F.gelu(F.conv3d(F.pad(hidden, (1,) * 6), adapter.depthwise.weight, adapter.depthwise.bias, groups=4)).permute(0, 2, 3, 4, 1).reshape(1, 210, 4)
    torch.testing.assert_close(adapter(x, GRID), x + hidden @ adapter.up.weight.T + adapter.up.bias)


def test_adapter_does_not_mix_the_samples_of_a_batch(stir) -> None:
    adapter = stir(Adapter3D(8, 4))
    pair = torch.randn(2, 210, 8)
    torch.testing.assert_close(adapter(pair, GRID), torch.cat([adapter(pair[:1], GRID), adapter(pair[1:], GRID)]))
