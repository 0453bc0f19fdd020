"""Eq. VI-VII: the folded form is the literal one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from RefSAM3DLib.modeling.cross_attention import HierarchicalCrossAttention, LevelCrossAttention, attention

LEVEL, PROMPT, ATTENTION, HEADS, FUSED = 12, 10, 8, 2, 6


@pytest.fixture
def layer() -> LevelCrossAttention:
    return LevelCrossAttention(LEVEL, PROMPT, ATTENTION, HEADS, FUSED)


def sample(prompts: int = 3, words: int = 5, tokens: int = 20) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    mask = torch.ones(prompts, words, dtype=torch.bool)
    for n in range(prompts):
        mask[n, max(1, words - n) :] = False
    return torch.randn(tokens, LEVEL), torch.randn(prompts, words, PROMPT), mask


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 30), st.integers(0, 1000))
def test_folded_is_literal(prompts: int, words: int, tokens: int, seed: int) -> None:
    torch.manual_seed(seed)
    layer = LevelCrossAttention(LEVEL, PROMPT, ATTENTION, HEADS, FUSED)
    level, text, mask = sample(prompts, words, tokens)
    torch.testing.assert_close(layer(layer.cache(level), text, mask), layer.literal(level, text, mask), rtol=1e-5, atol=1e-5)


def test_literal_is_the_equations_written_out(layer: LevelCrossAttention) -> None:
    level, words, mask = sample()
    for p in range(3):
        real = words[p, mask[p]]
        attended = []
        for head in range(HEADS):
            a, c = slice(head * ATTENTION // HEADS, (head + 1) * ATTENTION // HEADS), slice(head * LEVEL // HEADS, (head + 1) * LEVEL // HEADS)
            q = F.normalize(level @ layer.query.weight[a].T, dim=-1)
            k = F.normalize(real @ layer.key.weight[a].T, dim=-1)
            v = real @ layer.value.weight[c].T + layer.value.bias[c]
            attended.append((q @ k.T * layer.log_temperature.exp()).softmax(-1) @ v)
        expected = torch.cat([level, *attended], -1) @ layer.fuse.weight.T + layer.fuse.bias
        torch.testing.assert_close(layer.literal(level, words, mask)[p], expected, rtol=1e-4, atol=1e-5)


def test_padded_words_are_ignored_whatever_they_hold(layer: LevelCrossAttention) -> None:
    level, words, mask = sample()
    noisy = torch.where(mask[..., None], words, torch.full_like(words, 1e4))
    assert torch.equal(layer(layer.cache(level), words, mask), layer(layer.cache(level), noisy, mask))
    weights = attention(layer.queries(level), layer.keys(words), mask)
    assert float(weights.masked_select(~mask[:, None, :, None].expand_as(weights)).abs().max()) == 0
    torch.testing.assert_close(weights.sum(2), torch.ones(3, HEADS, 20))


def test_words_are_told_apart(layer: LevelCrossAttention) -> None:
    """Unit vectors and a temperature of ten: with a plain softmax over four words no weight would leave 0.25 by much."""
    level, words, mask = sample(1, 4, 200)
    assert float(attention(layer.queries(level), layer.keys(words), mask).amax(2).mean()) > 0.6


def test_scale_of_image_and_words_does_not_sharpen_the_attention(layer: LevelCrossAttention) -> None:
    level, words, mask = sample()
    one = attention(layer.queries(level), layer.keys(words), mask)
    torch.testing.assert_close(attention(layer.queries(level * 7), layer.keys(words * 3), mask), one, rtol=1e-4, atol=1e-5)


def test_cache_holds_no_prompt_and_levels_keep_to_themselves() -> None:
    module = HierarchicalCrossAttention(4, LEVEL, PROMPT, ATTENTION, HEADS, FUSED)
    levels = [torch.randn(9, LEVEL) for _ in range(4)]
    _, words, mask = sample()
    caches = module.cache(levels)
    assert caches[0].queries.shape == (HEADS, ATTENTION // HEADS, 9)
    assert caches[0].image.shape == (9, FUSED)
    found = module(caches, words, mask)
    levels[2] = levels[2] + 1
    moved = module(module.cache(levels), words, mask)
    assert [torch.equal(a, b) for a, b in zip(found, moved, strict=True)] == [True, True, False, True]


def test_all_levels_at_once_are_the_sum_of_each() -> None:
    module = HierarchicalCrossAttention(4, LEVEL, PROMPT, ATTENTION, HEADS, FUSED)
    caches = module.cache([torch.randn(9, LEVEL) for _ in range(4)])
    _, words, mask = sample()
    expected = torch.stack(module(caches, words, mask)).sum(0)
    torch.testing.assert_close(module.total(module.join(caches), module.cache_words(words), mask), expected, rtol=1e-5, atol=1e-5)
