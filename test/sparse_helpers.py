"""Small sparse batches and models with weights everywhere, for tests of the latents."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from scenegen.generator.latents.flow import SLatFlowModel

Model = TypeVar("Model", bound=nn.Module)

TRANSFORMER = {
    "resolution": 16,
    "model_channels": 32,
    "latent_channels": 8,
    "num_blocks": 2,
    "num_heads": 2,
    "attn_mode": "swin",
    "window_size": 4,
}
GAUSSIANS = {
    "lr": {"_xyz": 1.0, "_features_dc": 1.0, "_opacity": 1.0, "_scaling": 1.0, "_rotation": 0.1},
    "perturb_offset": True,
    "voxel_size": 1.5,
    "num_gaussians": 4,
    "2d_filter_kernel_size": 0.1,
    "3d_filter_kernel_size": 9e-4,
    "scaling_bias": 4e-3,
    "opacity_bias": 0.1,
    "scaling_activation": "softplus",
}


def coordinates(counts: tuple[int, ...] = (40, 25), size: int = 8, seed: int = 0) -> Tensor:
    """Distinct random voxels of each sample, int32 [N, 4], sorted as the structure's are."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for sample, count in enumerate(counts):
        cells = torch.randperm(size**3, generator=generator)[:count].sort().values
        rows.append(torch.stack([cells * 0 + sample, cells // size**2, cells // size % size, cells % size], dim=1))
    return torch.cat(rows).int()


def filled(model: Model, seed: int = 1) -> Model:
    """The model with random values in every parameter: none is left at zero, where errors hide."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def random(*shape: int, seed: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def flow_model(**changes: object) -> SLatFlowModel:
    arguments = {
        "resolution": 16,
        "in_channels": 8,
        "out_channels": 8,
        "model_channels": 32,
        "cond_channels": 12,
        "num_blocks": 2,
        "num_heads": 2,
        "io_block_channels": [16],
        "qk_rms_norm": True,
    }
    return filled(SLatFlowModel(**(arguments | changes)))
