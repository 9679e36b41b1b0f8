"""Which parameters become half precision in models with ``use_fp16`` (spec/structure.md section 1), and which half.

Knows nothing about autocast.
"""

from __future__ import annotations

import torch
from torch import nn

from scenegen.generator.nn.sparse_conv import SparseKernel


def halve_weights(*modules: nn.Module) -> None:
    """Turn the Linear and convolution parameters inside to float16; norms, gammas and tokens stay float32."""
    for module in modules:
        for part in module.modules():
            if isinstance(part, nn.Linear | nn.Conv3d | SparseKernel):
                part.to(torch.float16)


def half_for(device: str | torch.device, *, fast: bool) -> torch.dtype:
    """What takes the place of float16 on a device: nothing else on a GPU; on a CPU float32, which is exact.

    fast: bfloat16 where the CPU multiplies matrices of it in hardware (AMX), which takes a third of the time.
    """
    if torch.device(device).type != "cpu":
        return torch.float16
    return torch.bfloat16 if fast and torch.cpu.get_capabilities().get("amx_bf16", False) else torch.float32


def replace_half(module: nn.Module, dtype: torch.dtype) -> None:
    """Turn the float16 parameters of a module to another dtype."""
    for parameter in module.parameters():
        if parameter.dtype == torch.float16:
            parameter.data = parameter.data.to(dtype)
