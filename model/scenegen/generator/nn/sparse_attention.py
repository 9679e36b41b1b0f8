"""Attention of sparse rows within groups of unequal size (spec/latents.md section 2).

No score between groups is ever computed. Knows nothing about where rows stand: a group is a set of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from scenegen.generator.nn.attention import CrossAttention, SelfAttention, attention


class Groups(Protocol):
    """A partition of rows into groups."""

    def attend(self, qkv: Tensor) -> Tensor:
        """Attention within each group: queries, keys and values [N, 3, H, d] -> [N, H, d]."""


class Samples:
    """Groups that are runs of rows: whole samples."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths = tuple(lengths)

    def attend(self, qkv: Tensor) -> Tensor:
        """Each sample by itself, nothing padded: [N, 3, H, d] -> [N, H, d]."""
        runs = [run[None] for run in qkv.split(self._lengths) if len(run)]
        return _joined([attention(*run.unbind(2)) for run in runs], qkv)


class _Bucket(NamedTuple):
    """Groups of about the same size: their rows [G, L], filled up to equal length, and which are real [G, 1, 1, L]."""

    rows: Tensor
    real: Tensor | None


class Windows:
    """Groups of any rows, many and small: rows with equal keys, int64 [N]."""

    SLACK = 0.75
    """Groups at least so large, compared with the largest of their bucket, are filled up to its size."""

    def __init__(self, keys: Tensor) -> None:
        _, group, lengths = torch.unique(keys, return_inverse=True, return_counts=True)
        order = group.argsort(stable=True)
        starts = lengths.cumsum(0) - lengths
        by_size = lengths.argsort(descending=True, stable=True)
        sizes = lengths[by_size].tolist()
        self._buckets: list[_Bucket] = []
        first = 0
        while first < len(sizes):
            last = first
            while last < len(sizes) and sizes[last] >= self.SLACK * sizes[first]:
                last += 1
            self._buckets.append(_bucket(order, starts[by_size[first:last]], lengths[by_size[first:last]]))
            first = last
        filled = torch.cat([bucket.rows.flatten() for bucket in self._buckets] or [order])
        # Groups are filled up with copies of their last row, which get the same result: any place of it will do.
        self._place = torch.empty_like(order)
        self._place[filled] = torch.arange(len(filled), device=keys.device)

    def attend(self, qkv: Tensor) -> Tensor:
        """Attention within each group: [N, 3, H, d] -> [N, H, d]."""
        parts = []
        for rows, real in self._buckets:
            q, k, v = qkv[rows].unbind(2)
            parts.append(attention(q, k, v, real).flatten(0, 1)[None])
        return _joined(parts, qkv).index_select(0, self._place)


def _bucket(order: Tensor, starts: Tensor, lengths: Tensor) -> _Bucket:
    steps = torch.arange(int(lengths.max()), device=order.device)
    real = steps < lengths[:, None]
    rows = order[starts[:, None] + steps.minimum(lengths[:, None] - 1)]
    return _Bucket(rows, None if bool(real.all()) else real[:, None, None])


def _joined(parts: list[Tensor], qkv: Tensor) -> Tensor:
    """Parts [1, n, H, d] as rows [N, H, d]."""
    return torch.cat(parts, dim=1)[0] if parts else qkv[:, 0]


class SparseSelfAttention(SelfAttention):
    """Rows attend to the rows of their group."""

    def forward(self, x: Tensor, groups: Groups) -> Tensor:  # type: ignore[override]
        """x: [N, C] -> [N, C]."""
        qkv = self.to_qkv(x).unflatten(-1, (3, self.heads, -1))
        if self.qk_rms_norm:
            q, k, v = qkv.unbind(1)
            qkv = torch.stack([self.q_rms_norm(q), self.k_rms_norm(k), v], dim=1)
        return self.to_out(groups.attend(qkv).flatten(1))


class SparseCrossAttention(CrossAttention):
    """Rows attend to the context of their sample."""

    def forward(self, x: Tensor, lengths: Sequence[int], k: Tensor, v: Tensor) -> Tensor:  # type: ignore[override]
        """x: [N, C] with so many rows of each sample; k, v: [B, T, H, d] from ``keys_values`` -> [N, C]."""
        q = self.to_q(x).unflatten(-1, (self.heads, -1))
        if self.qk_rms_norm:
            q = self.q_rms_norm(q)
        return self.to_out(attend_samples(q, lengths, k, v).flatten(1))


def attend_samples(q: Tensor, lengths: Sequence[int], k: Tensor, v: Tensor) -> Tensor:
    """Each sample's rows to its own tokens: [N, H, d], [B, T, H, d], [B, T, H, d] -> [N, H, d]."""
    runs = enumerate(q.split(tuple(lengths)))
    parts = [attention(run[None], k[i : i + 1], v[i : i + 1]) for i, run in runs if len(run)]
    return torch.cat(parts, dim=1)[0] if parts else q
