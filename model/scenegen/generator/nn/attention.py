"""Attention over tokens (spec/structure.md section 1). Knows nothing about what the tokens stand for.

Queries, keys and values are [B, L, H, head_dim]; no dropout, and no score matrix is ever stored.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenegen.generator.nn.norms import HeadRMSNorm


@functools.cache
def _xformers_attention() -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    try:
        return importlib.import_module("xformers.ops").memory_efficient_attention
    except ImportError:
        return None


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) v: [B, L, H, d], [B, T, H, d], [B, T, H, d] -> [B, L, H, d].

    mask: bool, broadcast to [B, H, L, T], False where a key is not to be seen. xformers where it is installed, the
    tensors are on CUDA and nothing is masked; torch's fused attention elsewhere.
    """
    fused = _xformers_attention() if q.is_cuda and mask is None else None
    if fused is not None:
        return fused(q, k, v)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if q.device.type == "cpu" and q.requires_grad:
        # Measured: the fused CPU backward takes 2 to 7 times as long in bfloat16 as in float32.
        with torch.autocast("cpu", enabled=False):
            out = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask).to(q.dtype)
    else:
        out = F.scaled_dot_product_attention(q, k, v, mask)
    return out.transpose(1, 2)


class SelfAttention(nn.Module):
    """Tokens of one row attend to one another."""

    def __init__(self, channels: int, heads: int, qk_rms_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(channels, channels * 3)
        self.to_out = nn.Linear(channels, channels)
        if qk_rms_norm:
            self.q_rms_norm = HeadRMSNorm(heads, channels // heads)
            self.k_rms_norm = HeadRMSNorm(heads, channels // heads)
        self.qk_rms_norm = qk_rms_norm

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, L, C] -> [B, L, C]."""
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        if self.qk_rms_norm:
            q, k = self.q_rms_norm(q), self.k_rms_norm(k)
        return self.to_out(attention(q, k, v).flatten(2))

    def of_single_token(self, x: Tensor) -> Tensor:
        """The same for rows of one token, [B, 1, C]: a lone token attends to itself alone, so only values matter."""
        channels = x.shape[-1]
        v = F.linear(x, self.to_qkv.weight[2 * channels :], self.to_qkv.bias[2 * channels :])
        return self.to_out(v)


class CrossAttention(nn.Module):
    """Tokens attend to a context whose keys and values can be computed once and kept."""

    def __init__(self, channels: int, context_channels: int, heads: int, qk_rms_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels)
        self.to_kv = nn.Linear(context_channels, channels * 2)
        self.to_out = nn.Linear(channels, channels)
        if qk_rms_norm:
            self.q_rms_norm = HeadRMSNorm(heads, channels // heads)
            self.k_rms_norm = HeadRMSNorm(heads, channels // heads)
        self.qk_rms_norm = qk_rms_norm

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a context [B, T, context_channels]: two of [B, T, H, head_dim], in memory head by head.

        Measured: so laid out, attention to them takes a fifth less time in float32 on a CPU, with the same result.
        """
        k, v = self.to_kv(context).unflatten(-1, (2, self.heads, -1)).unbind(2)
        k = self.k_rms_norm(k) if self.qk_rms_norm else k
        return k.transpose(1, 2).contiguous().transpose(1, 2), v.transpose(1, 2).contiguous().transpose(1, 2)

    def forward(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """x: [B, L, C], k and v from ``keys_values`` -> [B, L, C]."""
        q = self.to_q(x).unflatten(-1, (self.heads, -1))
        if self.qk_rms_norm:
            q = self.q_rms_norm(q)
        return self.to_out(attention(q, k, v).flatten(2))

    def of_zero_context(self) -> Tensor:
        """What every token gets from an all-zero context: [C] (spec/cost.md section 3.2).

        All keys are then equal, so the softmax is uniform and the values average to their bias.
        """
        return self.to_out(self.to_kv.bias[self.to_out.in_features :])
