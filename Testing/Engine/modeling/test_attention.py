"""Windows, shifts, padding and relative positions against the literal formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from RefSAM3DLib.modeling.attention import WindowAttention3D, relative_table

DIM, HEADS = 8, 2


def literal(attention: WindowAttention3D, tokens: Tensor, grid: tuple[int, int, int], allowed: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(c) + q . (R_d + R_h + R_w)) v, pair by pair; ``allowed`` (N, N) says which pairs exist."""
    count, width = tokens.shape[1], DIM // HEADS
    place = [(d, h, w) for d in range(grid[0]) for h in range(grid[1]) for w in range(grid[2])]
    centre = attention.window_size - 1
    out = []
    for sample in tokens:
        q, k, v = (sample @ attention.qkv.weight.T + attention.qkv.bias).view(count, 3, HEADS, width).permute(1, 2, 0, 3)
        tables = (attention.rel_pos_d, attention.rel_pos_h, attention.rel_pos_w)
        offsets = [[[p[a] - s[a] + centre for s in place] for p in place] for a in range(3)]
        reach = 2 * attention.window_size - 1
        rows = sum(table[torch.tensor(o).clamp(0, reach - 1)] for table, o in zip(tables, offsets, strict=True))  # (N, N, c)
        scores = torch.einsum("hqc,hkc->hqk", q, k) / width**0.5 + torch.einsum("hqc,qkc->hqk", q, rows)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, float("-inf"))
        out.append((scores.softmax(-1) @ v).transpose(0, 1).reshape(count, DIM))
    return torch.stack(out) @ attention.proj.weight.T + attention.proj.bias


def windows(grid: tuple[int, int, int], side: int, shifted: bool) -> Tensor:
    """(N, N) True where two tokens share a window: on each longer axis a cube of ``side``, displaced by half a cube if shifted."""
    same = torch.ones(1, 1, dtype=torch.bool)
    for n in grid:
        step = min(n, side)
        is_cut = -(-n // step) > 1
        shift = step // 2 if shifted and is_cut else 0
        cell = (torch.arange(n) - shift).div(step, rounding_mode="floor")
        axis = cell[:, None] == cell[None, :]
        m = same.shape[0]
        same = (same[:, None, :, None] & axis[None, :, None, :]).reshape(m * n, m * n)
    return same


@pytest.fixture
def make(stir):
    def build(window: int, shifted: bool) -> WindowAttention3D:
        return stir(WindowAttention3D(DIM, HEADS, window, shifted))

    return build


@pytest.mark.parametrize("grid", [(3, 3, 3), (1, 3, 2), (2, 1, 1)])
@pytest.mark.parametrize("shifted", [False, True])
def test_grid_that_fits_one_window_is_full_attention_with_the_literal_bias(make, grid: tuple[int, int, int], shifted: bool) -> None:
    attention = make(3, shifted)
    tokens = torch.randn(2, grid[0] * grid[1] * grid[2], DIM)
    torch.testing.assert_close(attention(tokens, grid), literal(attention, tokens, grid), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grid", [(4, 2, 2), (4, 4, 2), (3, 4, 5), (5, 1, 3), (3, 3, 3)])
@pytest.mark.parametrize("shifted", [False, True])
def test_longer_grid_is_attention_inside_windows_padding_and_wrapping_left_out(make, grid: tuple[int, int, int], shifted: bool) -> None:
    attention = make(2, shifted)
    tokens = torch.randn(2, grid[0] * grid[1] * grid[2], DIM)
    expected = literal(attention, tokens, grid, windows(grid, 2, shifted))
    torch.testing.assert_close(attention(tokens, grid), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shifted", [False, True])
def test_token_moves_its_own_window_alone(make, shifted: bool) -> None:
    grid = (5, 3, 4)
    attention = make(2, shifted)
    share = windows(grid, 2, shifted)
    tokens = torch.randn(1, 60, DIM)
    before = attention(tokens, grid)
    for index in (0, 17, 31, 59):
        moved = tokens.clone()
        moved[0, index] += 1
        changed = (attention(moved, grid) - before)[0].abs().amax(-1) > 1e-6
        assert torch.equal(changed, share[index])


def test_shifted_and_plain_windows_differ(make) -> None:
    tokens = torch.randn(1, 64, DIM)
    plain, shifted = make(2, False), make(2, True)
    shifted.load_state_dict(plain.state_dict())
    assert not torch.allclose(plain(tokens, (4, 4, 4)), shifted(tokens, (4, 4, 4)), atol=1e-3)


def test_relative_table_row_is_query_minus_key() -> None:
    table = torch.arange(9.0)[:, None]
    assert relative_table(table, 5)[..., 0].tolist() == [[4.0 + q - k for k in range(5)] for q in range(5)]
    assert relative_table(table, 3)[..., 0].tolist() == [[4.0 + q - k for k in range(3)] for q in range(3)]


def test_relative_table_is_stretched_over_a_longer_axis() -> None:
    stretched = relative_table(torch.arange(5.0)[:, None], 6)[..., 0]
    assert stretched.shape == (6, 6)
    torch.testing.assert_close(torch.diagonal(stretched), torch.full((6,), 2.0))
    assert (stretched[1:, 0] - stretched[:-1, 0] >= 0).all()


def test_batch_of_two_is_two_of_one(make) -> None:
    attention = make(2, True)
    pair = torch.randn(2, 60, DIM)
    alone = torch.cat([attention(pair[:1], (5, 3, 4)), attention(pair[1:], (5, 3, 4))])
    torch.testing.assert_close(attention(pair, (5, 3, 4)), alone, rtol=1e-4, atol=1e-6)


def test_width_that_no_head_divides_is_refused() -> None:
    with pytest.raises(ValueError, match="width 10 is not divisible by 4 heads"):
        WindowAttention3D(10, 4, 2, False)
