"""Which parameters become half precision in models with ``use_fp16`` (spec/structure.md section 1).

Knows nothing about devices or autocast.
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
