"""Builds the product's own modules for conformance cases: glue, not copies.

A case's config names what to build ("name" or "kind"); BUILDERS maps that to a function of the case's arguments.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parent))  # this file is also loaded by its path, for its neighbours' builders

import conformance_latents
import conformance_meshing
import conformance_texture
import conformance_training
import conformance_vggt_heads

from scenegen.generator.conditioning import condition_tokens, image_tensor
from scenegen.generator.encoders.dinov2 import normalise_tokens
from scenegen.generator.encoders.vggt import VGGTAggregator
from scenegen.generator.encoders.vit import ImageNorm
from scenegen.generator.preprocessing import crop_cutout, geometry_image, mask_image, scene_image
from scenegen.generator.sampling import Step, predict_clean, sample_structure
from scenegen.generator.structure.coords import occupied_voxels
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.generator.structure.position_head import PositionHead
from scenegen.generator.structure.vae import SparseStructureDecoder, SparseStructureEncoder

Config = dict[str, Any]


class _Coords(nn.Module):
    def __init__(self, decoder: Config) -> None:
        super().__init__()
        self.decoder = build_model(decoder)

    def forward(self, z: Tensor) -> dict[str, Tensor]:
        return {"coords": occupied_voxels(self.decoder(z))}


def _sampling_options(params: Config) -> Config:
    """What the published sampler classes mean: no guidance, guidance at all times, guidance in an interval."""
    return {
        "steps": params["steps"],
        "rescale_t": params["rescale_t"],
        "guidance": params.get("cfg_strength", 0.0),
        "interval": tuple(params.get("cfg_interval", (0.0, 1.0))),
    }


class _Sampler(nn.Module):
    """With the exact savings, positions are known at the last step only: the others come from a plain evaluation."""

    def __init__(self, sampler: str, sigma_min: float, model: Config, params: Config) -> None:
        super().__init__()
        self.model = build_model(model)
        self.sigma_min = sigma_min
        self.options = _sampling_options(params)

    def forward(self, noise: Tensor, cond: Tensor, neg_cond: Tensor | None = None) -> dict[str, Tensor]:
        steps: list[Step] = []
        samples, positions = sample_structure(
            self.model, noise, [cond], neg_cond=neg_cond, on_step=steps.append, **self.options
        )
        outputs = {
            "samples": samples,
            "pred_x_t": torch.stack([step.x_next for step in steps]),
            "pred_x_0": torch.stack([predict_clean(s.x, s.velocity, s.t, self.sigma_min) for s in steps]),
        }
        if positions is not None:
            plain: list[Step] = []
            sample_structure(
                self.model,
                noise,
                [cond],
                neg_cond=neg_cond,
                on_step=plain.append,
                exact_savings=False,
                **self.options,
            )
            outputs["positions"] = positions
            outputs["pred_pos_t"] = torch.stack([step.positions for step in plain if step.positions is not None])
        return outputs


class _MultiViewSampler(nn.Module):
    def __init__(
        self, sampler: str, sigma_min: float, model: Config, decoder: Config, params: Config, mode: str
    ) -> None:
        super().__init__()
        self.model, self.decoder = build_model(model), build_model(decoder)
        self.options = _sampling_options(params)

    def forward(self, noise: Tensor, cond: Tensor) -> dict[str, Tensor]:
        conds = list(cond) if cond.ndim == 4 else [cond]
        latents, positions = sample_structure(self.model, noise, conds, **self.options)
        assert positions is not None
        return {"coords": occupied_voxels(self.decoder(latents)), "positions": positions}


class _Aggregator(VGGTAggregator):
    def forward(self, images: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        first, last = super().forward(images, rounds=(0, -1))
        return {"tokens_first": first, "tokens_last": last, "condition": torch.cat(last.chunk(2, dim=-1), dim=2)}


class _Preprocess(nn.Module):
    """Published sizes; the images come as encoded files."""

    def forward(self, asset: Tensor, mask: Tensor, scene: Tensor) -> dict[str, Tensor]:
        cutout, mask_rgb, image = (
            np.asarray(Image.open(io.BytesIO(part.cpu().numpy().tobytes()))) for part in (asset, mask, scene)
        )
        asset_u8, mask_u8 = crop_cutout(cutout, 518), mask_image(mask_rgb[..., 0] > 127, 518)
        scene_u8, vggt_u8 = scene_image(image, 518), geometry_image(image, 518)
        normalise = ImageNorm()

        def encoder_input(image_u8: np.ndarray) -> Tensor:
            return normalise(image_tensor(image_u8[None]))[..., ::37, ::37]

        return {
            "dino_asset_sub": encoder_input(asset_u8),
            "dino_mask_sub": encoder_input(mask_u8),
            "dino_scene_sub": encoder_input(scene_u8),
            "vggt_sub": image_tensor(vggt_u8[None, None])[..., ::37, ::37],
            "asset_u8_ds": torch.from_numpy(asset_u8[::4, ::4].copy()),
            "mask_u8": torch.from_numpy(mask_u8[..., 0].copy()),
            "scene_u8_ds": torch.from_numpy(scene_u8[::4, ::4].copy()).permute(2, 0, 1),
            "vggt_u8_ds": torch.from_numpy(vggt_u8[::4, ::4].copy()).permute(2, 0, 1),
        }


class _CondAssembly(nn.Module):
    def forward(self, dino_asset: Tensor, dino_mask: Tensor, dino_scene: Tensor, vggt: Tensor) -> dict[str, Tensor]:
        images = (normalise_tokens(tokens) for tokens in (dino_asset, dino_mask, dino_scene))
        view_of_asset = torch.zeros(len(dino_asset), dtype=torch.int64, device=vggt.device)
        return {"cond": condition_tokens(*images, vggt, view_of_asset)}


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "SparseStructureEncoder": SparseStructureEncoder,
    "SparseStructureDecoder": SparseStructureDecoder,
    "SparseStructureFlowModel": SparseStructureFlowModel,
    "PositionHead": PositionHead,
    "SSCoords": _Coords,
    "Sampler": _Sampler,
    "MultiViewSampler": _MultiViewSampler,
    "VGGTAggregator": _Aggregator,
    "Preprocess": _Preprocess,
    "CondAssembly": _CondAssembly,
    **conformance_vggt_heads.BUILDERS,
    **conformance_latents.BUILDERS,
    **conformance_meshing.BUILDERS,
    **conformance_texture.BUILDERS,
    **conformance_training.BUILDERS,
}


def build_model(config: Config) -> nn.Module:
    """Build what a case asks for; NotImplementedError when the project has no such part."""
    name = config.get("name") or config["kind"]
    if name not in BUILDERS:
        raise NotImplementedError(name)
    beside = {key: config[key] for key in ("sampler", "normalization") if key in config}
    return BUILDERS[name](**config.get("args", {}), **beside)
