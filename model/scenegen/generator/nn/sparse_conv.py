"""Submanifold convolutions: output where input is (spec/latents.md section 1.1).

Parameters are laid out as in spconv 2.x, `conv.weight` [out, K, K, K, in]. Each weight of the kernel gathers the rows
it meets, multiplies them once, and adds them where they belong: absent neighbours cost nothing. Knows nothing about
how neighbours are found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scenegen.generator.nn.sparse import CHILDREN, Pairs, Pooling, Voxels
from scenegen.scene import InvalidInput

_CHUNK = 1 << 16
"""Rows gathered at once, to bound memory."""


class SparseKernel(nn.Module):
    """The parameters of a convolution."""

    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        bound = (in_channels * size**3) ** -0.5
        self.weight = nn.Parameter(torch.empty(out_channels, size, size, size, in_channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound))


class SparseConv3d(nn.Module):
    """A convolution with kernel size 3 or 1, stride 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        if kernel_size not in (1, 3):
            raise InvalidInput(f"sparse convolution of kernel size {kernel_size}: only 1 and 3 are supported")
        self.conv = SparseKernel(in_channels, out_channels, kernel_size)

    def forward(self, x: Tensor, voxels: Voxels) -> Tensor:
        """x: [N, in] -> [N, out], at the same voxels."""
        weight = self.conv.weight
        if weight.shape[1] == 1:
            # spconv reads the [out, in] weights of this size as if they were [in, out], without transposing, and the
            # published weights were trained so (section 1.1).
            return torch.addmm(self.conv.bias, x, weight.reshape(x.shape[1], -1))
        return self._convolve(x, self._weights(), voxels.pairs, len(voxels))

    def on_upsampled(self, x: Tensor, pooling: Pooling) -> Tensor:
        """The same as on ``pooling.up(x)``, without making it: coarse rows [M, in] -> fine rows [N, out]."""
        return self._convolve(x, self._weights(), pooling.pairs, len(pooling.fine))

    def on_subdivided(self, x: Tensor, voxels: Voxels) -> Tensor:
        """The same as on every row of x copied to the 8 children of its voxel: [N, in] -> [8 N, out].

        A child's 27 neighbours lie in 8 voxels of the parents' grid, so the weights that meet the same one are summed
        first: 8 products instead of 27, exact because a voxel's children are there all or none.
        """
        weight = self.conv.weight.to(_sum_dtype(x))
        for axis in (1, 2, 3):
            left, middle, right = weight.unbind(axis)
            # What the first child's two parent cells see, then the second child's.
            weight = torch.stack([left, middle + right, left + middle, right], dim=axis)
        weight = weight.to(x.dtype).unflatten(3, (2, 2)).unflatten(2, (2, 2)).unflatten(1, (2, 2))
        children = []
        for dx, dy, dz in CHILDREN.tolist():
            matrices = weight[:, dx, :, dy, :, dz].flatten(1, 3).permute(1, 2, 0)
            pairs = [voxels.pairs[(dx + i) * 9 + (dy + j) * 3 + dz + k] for i, j, k in CHILDREN.tolist()]
            children.append(self._convolve(x, matrices, pairs, len(x)))
        return torch.stack(children, dim=1).flatten(0, 1)

    def _weights(self) -> Tensor:
        """One matrix per offset: [27, in, out]."""
        return self.conv.weight.flatten(1, 3).permute(1, 2, 0)

    def _convolve(self, x: Tensor, weights: Tensor, pairs: Sequence[Pairs], rows: int) -> Tensor:
        products: Tensor = _GatherMultiplyAdd.apply(x, weights, pairs, rows)
        return (products + self.conv.bias).to(x.dtype)


class _GatherMultiplyAdd(torch.autograd.Function):
    """out[o] += x[i] @ weights[k] for all pairs (o, i) of every k, summed in float32 at least."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, pairs: Sequence[Pairs], rows: int) -> Tensor:
        ctx.save_for_backward(x, weights)
        ctx.pairs = pairs
        out = x.new_zeros(rows, weights.shape[2], dtype=_sum_dtype(x))
        for matrix, pair in zip(weights, pairs, strict=True):
            _multiply_add(out, pair.out, x, pair.into, matrix)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weights = ctx.saved_tensors
        gradient = gradients[0].to(x.dtype)
        of_x = of_weights = None
        if ctx.needs_input_grad[0]:
            sums = torch.zeros_like(x, dtype=_sum_dtype(x))
            for matrix, pair in zip(weights, ctx.pairs, strict=True):
                _multiply_add(sums, pair.into, gradient, pair.out, matrix.T)
            of_x = sums.to(x.dtype)
        if ctx.needs_input_grad[1]:
            of_weights = torch.stack([_rows(x, p.into).T @ _rows(gradient, p.out) for p in ctx.pairs])
        return of_x, of_weights, None, None


def _multiply_add(out: Tensor, to: Tensor | None, x: Tensor, of: Tensor | None, matrix: Tensor) -> None:
    """out[to] += x[of] @ matrix, in place; no row of x is multiplied twice when that is less work."""
    if of is None or len(of) > len(x):
        y = (x @ matrix).to(out.dtype)
        _add_rows(out, to, _rows(y, of))
        return
    steps = range(0, len(of), _CHUNK)
    for begin in steps:
        chunk = slice(begin, begin + _CHUNK)
        y = (x.index_select(0, of[chunk]) @ matrix).to(out.dtype)
        _add_rows(out[chunk] if to is None else out, None if to is None else to[chunk], y)


def _add_rows(out: Tensor, to: Tensor | None, y: Tensor) -> None:
    if to is None:
        out += y
    else:
        out.index_add_(0, to, y)


def _rows(x: Tensor, rows: Tensor | None) -> Tensor:
    return x if rows is None else x.index_select(0, rows)


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
