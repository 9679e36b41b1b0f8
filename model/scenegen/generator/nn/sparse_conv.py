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

from scenegen.generator.nn.sparse import OFFSETS, Pairs, Pooling, Voxels, touching_children
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
        return self._convolve(x, self._weights().unbind(), voxels.pairs, len(voxels))

    def on_upsampled(self, x: Tensor, pooling: Pooling) -> Tensor:
        """The same as on ``pooling.up(x)``, without making it: coarse rows [M, in] -> fine rows [N, out]."""
        return self._convolve(x, self._weights().unbind(), pooling.pairs, len(pooling.fine))

    def on_children(self, x: Tensor, parents: Voxels) -> Tensor:
        """The same at the voxels ``parents.subdivided``: [8 N, in] -> [8 N, out].

        Brothers are taken together: 27 products of whole families in place of 27 for every child, without waste, since
        all children of a voxel that touch one another's neighbour touch each of its children there.
        """
        matrices = [self._family_matrix(k).flatten(2).flatten(0, 1) for k in range(27)]
        return self._convolve(x, matrices, parents.pairs_of_children, 8 * len(parents))

    def on_subdivided(self, x: Tensor, voxels: Voxels) -> Tensor:
        """The same as ``on_children`` of every row of x copied to the 8 children of its voxel: [N, in] -> [8 N, out].

        Copies are equal, so the weights that meet them are summed first: 64 products in place of 216.
        """
        exact, kept = _sum_dtype(self.conv.weight), self.conv.weight.dtype
        matrices = [self._family_matrix(k).sum(0, dtype=exact).to(kept).flatten(1) for k in range(27)]
        return self._convolve(x, matrices, voxels.pairs_to_children, 8 * len(voxels))

    def _weights(self) -> Tensor:
        """One matrix per offset: [27, in, out]."""
        return self.conv.weight.flatten(1, 3).permute(1, 2, 0)

    def _family_matrix(self, k: int) -> Tensor:
        """The weights between touching children of voxels at offset k: [their children, in, own children, out]."""
        theirs, own = touching_children(k)
        offsets = 2 * OFFSETS[k] + theirs[:, None] - own + 1
        return self._weights()[(offsets @ torch.tensor([9, 3, 1])).to(self.conv.weight.device)].transpose(1, 2)

    def _convolve(self, x: Tensor, matrices: Sequence[Tensor], pairs: Sequence[Pairs], rows: int) -> Tensor:
        # Under autocast rows may come in another precision than the weights, which the backward pass would stumble on.
        rows_in, shape = x.to(self.conv.weight.dtype), (rows, len(self.conv.bias))
        products: Tensor = _GatherMultiplyAdd.apply(rows_in, pairs, shape, *matrices)
        return (products + self.conv.bias).to(x.dtype)


class _GatherMultiplyAdd(torch.autograd.Function):
    """out[o] += x[i] @ matrix for all pairs (o, i) of every matrix, summed in float32 at least.

    A matrix as high as several rows of x, or as wide as several of the output, takes or gives so many at once.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, pairs: Sequence[Pairs], shape: tuple[int, int], *matrices: Tensor) -> Tensor:
        ctx.save_for_backward(x, *matrices)
        ctx.pairs = pairs
        out = x.new_zeros(shape, dtype=_sum_dtype(x))
        for matrix, pair in zip(matrices, pairs, strict=True):
            _multiply_add(out, pair.out, x, pair.into, matrix)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *matrices = ctx.saved_tensors
        gradient = gradients[0].to(x.dtype)
        of_x: Tensor | None = None
        of_matrices: list[Tensor | None] = [None] * len(matrices)
        if ctx.needs_input_grad[0]:
            sums = torch.zeros_like(x, dtype=_sum_dtype(x))
            for matrix, pair in zip(matrices, ctx.pairs, strict=True):
                _multiply_add(sums, pair.into, gradient, pair.out, matrix.T)
            of_x = sums.to(x.dtype)
        if ctx.needs_input_grad[3]:
            of_matrices = [
                _rows(x, pair.into, len(matrix)).T @ _rows(gradient, pair.out, matrix.shape[1])
                for matrix, pair in zip(matrices, ctx.pairs, strict=True)
            ]
        return of_x, None, None, *of_matrices


def _multiply_add(out: Tensor, to: Tensor | None, x: Tensor, of: Tensor | None, matrix: Tensor) -> None:
    """out[to] += x[of] @ matrix, in place; no row of x is multiplied twice when that is less work."""
    height, width = matrix.shape[0] // x.shape[1], matrix.shape[1] // out.shape[1]
    if of is None or (len(of) > len(x) and height == width == 1):
        y = (x.reshape(-1, matrix.shape[0]) @ matrix).reshape(-1, out.shape[1]).to(out.dtype)
        _add_rows(out, to, y if of is None else y.index_select(0, of))
        return
    for begin in range(0, len(of) // height, _CHUNK):
        end = begin + _CHUNK
        y = (_rows(x, of[begin * height : end * height], matrix.shape[0]) @ matrix).reshape(-1, out.shape[1])
        chunk = slice(begin * width, end * width)
        _add_rows(out[chunk] if to is None else out, None if to is None else to[chunk], y.to(out.dtype))


def _add_rows(out: Tensor, to: Tensor | None, y: Tensor) -> None:
    if to is None:
        out += y
    else:
        out.index_add_(0, to, y)


def _rows(x: Tensor, rows: Tensor | None, width: int) -> Tensor:
    """Rows of x, or all, so many beside one another as make up the width."""
    return (x if rows is None else x.index_select(0, rows)).reshape(-1, width)


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
