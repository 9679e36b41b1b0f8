"""Sparse convolutions, resampling and attention, against dense or literal evaluations of the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from sparse_helpers import coordinates, filled, random
from torch import Tensor

from scenegen.generator.nn.sparse import Voxels
from scenegen.generator.nn.sparse_attention import SparseCrossAttention
from scenegen.generator.nn.sparse_blocks import SparseGroupNorm32, SparseResBlock3d, SparseSubdivideBlock3d
from scenegen.generator.nn.sparse_conv import SparseConv3d
from scenegen.scene import InvalidInput


def close(result: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def dense(x: Tensor, coords: Tensor, size: int) -> Tensor:
    """Rows [N, C] in a grid of zeros [B, C, size, size, size]."""
    grid = x.new_zeros(int(coords[:, 0].max()) + 1, size, size, size, x.shape[1])
    grid[tuple(coords.long().T)] = x
    return grid.movedim(-1, 1)


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_convolution_is_the_dense_one_at_the_voxels(order: str) -> None:
    coords = coordinates((200, 90))
    if order == "shuffled":
        coords = torch.cat([part[torch.randperm(len(part))] for part in coords.split([200, 90])])
    conv, x = filled(SparseConv3d(5, 6)), random(290, 5)
    weight = conv.conv.weight.permute(0, 4, 1, 2, 3)
    expected = F.conv3d(dense(x, coords, 8), weight, conv.conv.bias, padding=1)[
        (coords[:, 0].long(), slice(None), *coords[:, 1:].long().T)
    ]
    close(conv(x, Voxels(coords)), expected)


def test_children_know_their_neighbours_without_a_search() -> None:
    children = Voxels(coordinates()).subdivided.subdivided
    searched = Voxels(children.coords)
    assert torch.equal(children.neighbour_table, searched.neighbour_table)
    assert (searched.neighbour_table >= 0).sum() > 27 * 64


def test_families_are_convolved_as_their_members_would_be() -> None:
    coords, conv, x = coordinates(), filled(SparseConv3d(5, 6)), random(65 * 8, 5)
    voxels = Voxels(coords)
    close(conv.on_children(x, voxels), conv(x, Voxels(voxels.subdivided.coords)))


def test_convolution_of_copies_is_done_before_copying() -> None:
    coords, conv, x = coordinates(), filled(SparseConv3d(5, 6)), random(65, 5)
    voxels = Voxels(coords)
    copies, children = x.repeat_interleave(8, dim=0), Voxels(voxels.subdivided.coords)
    close(conv.on_subdivided(x, voxels), conv(copies, children))
    pooling = voxels.coarser
    coarse = random(len(pooling.coarse), 5)
    close(conv.on_upsampled(coarse, pooling), conv(pooling.up(coarse), voxels))


def test_subdivision_block_is_its_parts_one_after_another() -> None:
    voxels, block, x = Voxels(coordinates()), filled(SparseSubdivideBlock3d(64, 32)), random(65, 64)
    children = Voxels(voxels.subdivided.coords)
    norm, act = block.act_layers
    widen, inner_norm, inner_act, refine = block.out_layers
    h = act(norm(x, voxels)).repeat_interleave(8, dim=0)
    h = refine(inner_act(inner_norm(widen(h, children), children)), children)
    close(block(x, voxels), h + block.skip_connection(x.repeat_interleave(8, dim=0), children))


def test_weights_of_size_one_are_read_as_spconv_reads_them() -> None:
    conv, x = filled(SparseConv3d(3, 6, 1)), random(65, 3)
    memory = conv.conv.weight.flatten().tolist()
    literal = torch.stack([sum(x[:, i] * memory[i * 6 + o] for i in range(3)) for o in range(6)], dim=1)
    close(conv(x, Voxels(coordinates())), literal + conv.conv.bias)


def test_gradients_of_the_convolution_are_those_of_its_numbers() -> None:
    voxels, conv = Voxels(coordinates((12, 7), size=3)), filled(SparseConv3d(2, 3)).double()
    x = random(19, 2, dtype=torch.float64).requires_grad_()
    coarse = random(len(voxels.coarser.coarse), 2, dtype=torch.float64).requires_grad_()
    parameters = tuple(conv.parameters())

    def check(convolve: Callable[[Tensor], Tensor], inputs: Tensor) -> bool:
        return torch.autograd.gradcheck(lambda x, *_: convolve(x), (inputs, *parameters), fast_mode=True)

    assert check(lambda x: conv(x, voxels), x)
    assert check(lambda x: conv.on_subdivided(x, voxels), x)
    assert check(lambda x: conv.on_children(x, voxels), random(152, 2, dtype=torch.float64).requires_grad_())
    assert check(lambda x: conv.on_upsampled(x, voxels.coarser), coarse)


def test_parents_are_sums_over_one_more_than_their_children() -> None:
    coords = torch.tensor([[0, 4, 4, 4], [0, 5, 5, 5], [0, 6, 4, 4], [2, 0, 0, 1]])
    before = coords.clone()
    voxels = Voxels(coords)
    pooling = voxels.coarser
    assert pooling.coarse.coords.tolist() == [[0, 2, 2, 2], [0, 3, 2, 2], [2, 0, 0, 0]]
    assert pooling.coarse.lengths == (2, 0, 1)
    assert pooling.down(torch.tensor([[1.0], [5.0], [3.0], [4.0]])).tolist() == [[2.0], [1.5], [2.0]]
    assert pooling.up(torch.tensor([[7.0], [8.0], [9.0]])).tolist() == [[7.0], [7.0], [8.0], [9.0]]
    assert torch.equal(coords, before)


@pytest.mark.parametrize(("size", "shift"), [(4, 0), (4, 2), (3, 1)])
def test_windowed_attention_is_attention_masked_to_windows(size: int, shift: int) -> None:
    coords, qkv = coordinates((150, 60)), random(210, 3, 2, 4)
    windows = torch.cat([coords[:, :1], (coords[:, 1:] + shift) // size], dim=1)
    same = (windows[:, None] == windows).all(-1)
    q, k, v = (part.transpose(0, 1) for part in qkv.unbind(1))
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=same).transpose(0, 1)
    close(Voxels(coords).windows(size, shift).attend(qkv), expected)


def test_a_window_takes_memory_for_its_own_rows_only() -> None:
    coords = coordinates((400,), size=16)
    rows = sum(bucket.rows.numel() for bucket in Voxels(coords).windows(8, 4)._buckets)
    assert rows < 1.4 * len(coords)


def test_samples_without_voxels_change_nothing() -> None:
    coords = coordinates((30, 0, 20))
    voxels, qkv, context = Voxels(coords), random(50, 3, 2, 4), random(3, 5, 12)
    assert voxels.lengths == (30, 0, 20)
    packed = coords.clone()
    packed[30:, 0] = 1
    close(voxels.whole_samples.attend(qkv), Voxels(packed).whole_samples.attend(qkv))
    norm, x = filled(SparseGroupNorm32(2, 8)), random(50, 8)
    close(norm(x, voxels), norm(x, Voxels(packed)))
    attn = filled(SparseCrossAttention(8, 12, 2))
    k, v = attn.keys_values(context)
    close(attn(x, voxels.lengths, k, v), attn(x, (30, 20), k[[0, 2]], v[[0, 2]]))


def test_group_norm_is_that_of_each_sample_alone() -> None:
    voxels, norm, x = Voxels(coordinates()), filled(SparseGroupNorm32(4, 16)), 3 + random(65, 16)
    expected = [F.group_norm(part.T[None], 4, norm.weight, norm.bias)[0].T for part in x.split([40, 25])]
    close(norm(x, voxels), torch.cat(expected))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near(dtype: torch.dtype) -> None:
    voxels, block, x, emb = Voxels(coordinates()), filled(SparseResBlock3d(8, 4, 16, "up")), random(65, 8), random(2, 4)
    x = voxels.coarser.down(x)
    expected = block(x, voxels, emb)
    for part in (block.conv1, block.conv2, block.emb_layers, block.skip_connection):
        part.to(dtype)
    result = block(x.to(dtype), voxels, emb.to(dtype))
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), expected, atol=0.05, rtol=0.05)


def test_mixed_precision_trains() -> None:
    voxels, conv, x = Voxels(coordinates()), filled(SparseConv3d(5, 6)), random(65, 5)
    exact = torch.autograd.grad(conv(x, voxels).square().mean(), tuple(conv.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        loss = conv(x.bfloat16(), voxels).float().square().mean()
    for gradient, expected in zip(torch.autograd.grad(loss, tuple(conv.parameters())), exact, strict=True):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, expected, atol=0.02, rtol=0.05)


@pytest.mark.parametrize(
    ("coords", "samples", "words"),
    [
        (torch.zeros(3, 3, dtype=torch.int32), None, "expected int \\[N, 4\\]"),
        (torch.zeros(3, 4), None, "float32"),
        (torch.tensor([[0, 0, 0, 1024]]), None, "1024"),
        (torch.tensor([[0, 0, -1, 0]]), None, "-1"),
        (torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]]), None, "sort the rows"),
        (torch.tensor([[0, 0, 0, 0], [2, 0, 0, 0]]), 2, "3 samples, expected 2"),
    ],
)
def test_coordinates_that_are_none_are_named(coords: Tensor, samples: int | None, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Voxels(coords, samples)
