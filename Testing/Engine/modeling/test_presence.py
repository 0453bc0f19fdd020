"""The reader: pooled evidence, a coarse map, and whether the structure is there."""

from __future__ import annotations

import pytest
import torch

from RefSAM3DLib.modeling.presence import PromptReader


@pytest.fixture
def reader(stir) -> PromptReader:
    return stir(PromptReader(6, 5))


def test_reading_is_the_formula(reader: PromptReader) -> None:
    fused, sentence = [torch.randn(2, 9, 6) for _ in range(4)], torch.randn(2, 5)
    found = reader(fused, sentence)
    tokens = reader.norm(sum(fused))
    tokens = tokens + reader.mlp(tokens)
    for p in range(2):
        weights = (reader.pool_key(tokens[p]) @ reader.pool_query(sentence[p]) / 6**0.5).softmax(0)
        context = weights @ tokens[p]
        coarse = reader.coarse_bias(tokens[p])[:, 0] + tokens[p] @ reader.coarse_query(sentence[p]) / 6**0.5
        torch.testing.assert_close(found.context[p], context, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.coarse[p], coarse, rtol=1e-4, atol=1e-5)
        presence = reader.presence(torch.cat([context, sentence[p], coarse.max()[None]]))[0]
        torch.testing.assert_close(found.presence[p], presence, rtol=1e-4, atol=1e-5)


def test_order_of_tokens_does_not_matter(reader: PromptReader) -> None:
    """A volume's tokens are those of all its tiles, in any order."""
    fused, sentence, order = [torch.randn(2, 9, 6) for _ in range(4)], torch.randn(2, 5), torch.randperm(9)
    found, shuffled = reader(fused, sentence), reader([f[:, order] for f in fused], sentence)
    torch.testing.assert_close(shuffled.presence, found.presence, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shuffled.coarse, found.coarse[:, order], rtol=1e-4, atol=1e-5)


def test_prompts_do_not_read_each_other(reader: PromptReader) -> None:
    fused, sentence = [torch.randn(2, 9, 6) for _ in range(4)], torch.randn(2, 5)
    alone = reader([f[:1] for f in fused], sentence[:1])
    torch.testing.assert_close(reader(fused, sentence).presence[:1], alone.presence, rtol=1e-4, atol=1e-5)


def test_wording_changes_the_answer_for_the_same_tokens(reader: PromptReader) -> None:
    fused = [torch.randn(1, 9, 6).expand(2, -1, -1) for _ in range(4)]
    found = reader(fused, torch.randn(2, 5))
    assert abs(float(found.presence[0] - found.presence[1])) > 1e-4
