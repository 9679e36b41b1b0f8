"""What the networks of structured latents save, each measured against a plain evaluation of the same in one run.

Sampling with and without the exact savings (spec/cost.md section 3), and the mesh decoder's upsampling by whole
families of eight voxels against one voxel at a time. Random weights; the voxels are a sphere's surface.
`python -m benchmark.latents` prints it alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from benchmark.report import Section, table
from scenegen.generator.latents.flow import SLatFlowModel
from scenegen.generator.latents.sampling import sample_latents
from scenegen.generator.nn.sparse import Voxels
from scenegen.generator.nn.sparse_blocks import SparseSubdivideBlock3d
from scenegen.generator.nn.sparse_conv import SparseConv3d
from scenegen.generator.sampling import cpu_noise

Model = TypeVar("Model", bound=torch.nn.Module)

_EIGHTH: Mapping[str, Any] = {
    "resolution": 64,
    "in_channels": 8,
    "out_channels": 8,
    "model_channels": 128,
    "cond_channels": 128,
    "num_blocks": 3,
    "num_heads": 2,
    "io_block_channels": [16],
    "qk_rms_norm": True,
}
"""The published flow model with an eighth of its width and blocks."""
_CONDITION_TOKENS = 1374 // 8


def rows(repeats: int = 3, steps: int = 25) -> list[tuple[str, str]]:
    """For the table."""
    return [_sampling(repeats, steps), _upsampling(repeats)]


@torch.inference_mode()
def _sampling(repeats: int, steps: int) -> tuple[str, str]:
    voxels = Voxels(sphere(32, samples=2))
    generator = torch.Generator().manual_seed(0)
    model, cond = _random(SLatFlowModel(**_EIGHTH)), torch.randn(2, _CONDITION_TOKENS, 128, generator=generator)
    noise = cpu_noise((len(voxels), 8), generator)

    def sample(savings: bool) -> Tensor:
        fresh = Voxels(voxels.coords)
        return sample_latents(model, fresh, noise, [cond], steps=steps, exact_savings=savings)

    return f"latents of 2 assets, {len(voxels)} voxels", _compared(sample, repeats)


@torch.inference_mode()
def _upsampling(repeats: int) -> tuple[str, str]:
    coords, block = sphere(64), _random(SparseSubdivideBlock3d(256, 64))
    x = torch.randn(len(coords), 256, generator=torch.Generator().manual_seed(0))

    def plain() -> Tensor:
        voxels = Voxels(coords)
        children = Voxels(voxels.subdivided.coords)
        norm, act = block.act_layers
        widen, inner_norm, inner_act, refine = block.out_layers
        h = widen(act(norm(x, voxels)).repeat_interleave(8, dim=0), children)
        skip = cast(SparseConv3d, block.skip_connection)(x.repeat_interleave(8, dim=0), children)
        return refine(inner_act(inner_norm(h, children)), children) + skip

    def upsample(savings: bool) -> Tensor:
        return block(x, Voxels(coords)) if savings else plain()

    return f"a level of the mesh decoder, {len(coords)} -> {8 * len(coords)} voxels", _compared(upsample, repeats)


def _compared(run: Callable[[bool], Tensor], repeats: int) -> str:
    """Both ways in turn; the fastest of each."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    results: dict[bool, Tensor] = {}
    for _ in range(repeats):
        for savings in (False, True):
            began_s = time.perf_counter()
            results[savings] = run(savings)
            seconds[savings].append(time.perf_counter() - began_s)
    plain_s, saving_s = min(seconds[False]), min(seconds[True])
    difference = float((results[True] - results[False]).abs().max())
    return (
        f"{plain_s / saving_s:.2f} times as fast ({plain_s:.2f} -> {saving_s:.2f} s); results differ by "
        f"{difference:.1e} at most, of {float(results[False].abs().max()):.1f}"
    )


def sphere(resolution: int, samples: int = 1) -> Tensor:
    """Voxels that a sphere of diameter 0.6 passes, once per sample: int32 [N, 4]."""
    cells = torch.cartesian_prod(*[torch.arange(resolution)] * 3)
    distance = ((cells + 0.5) / resolution - 0.5).norm(dim=1) - 0.3
    surface = cells[distance.abs() < 0.5 / resolution]
    return torch.cat([torch.nn.functional.pad(surface, (1, 0), value=sample) for sample in range(samples)]).int()


def _random(model: Model) -> Model:
    """The model with random values in every parameter: none is left at zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


if __name__ == "__main__":
    print(table([Section("Networks of structured latents", rows())]))
