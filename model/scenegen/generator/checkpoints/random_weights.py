"""Checkpoints in the published layout filled with random numbers, for machines that have not the real ones.

Not everything is random: what comes out must be objects of 10 to 20 thousand voxels each, as real weights make, or the
time and memory of the later stages would say nothing. Knows nothing about what is measured with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from scenegen.generator.checkpoints.models import MODELS, build
from scenegen.generator.checkpoints.places import with_ending
from scenegen.generator.checkpoints.settings import PIPELINE, write_json
from scenegen.generator.encoders.dinov2 import ImageEncoder
from scenegen.generator.manifests import manifests

SPREAD = 0.02
"""Standard deviation of the random weights, as networks of this kind are initialised."""

RARE = 1.5
"""A structure is occupied where smoothed noise is above so many deviations: about 6 of 100 voxels."""

SAMPLER_PARAMS = {"cfg_strength": 5.0, "cfg_interval": [0.5, 1.0], "rescale_t": 3.0}


@dataclass(frozen=True)
class RandomModel:
    """One model to make up: where in the folder, its class, and the arguments of that. A place ending in / is a folder
    as Hugging Face has them: `config.json` (config says what is in it) and `model.safetensors`."""

    place: str
    model: str
    args: Mapping[str, Any]
    config: Mapping[str, Any] | None = None


def published_models() -> dict[str, RandomModel]:
    """Every model that a scene needs, at its published size and place, by role."""
    known = manifests()

    def of(manifest: str, place: str | None = None, config: Mapping[str, Any] | None = None) -> RandomModel:
        entry = known[manifest]
        return RandomModel(place or f"ckpts/{manifest}", entry.model, entry.args, config)

    dinov2 = known["dinov2_vitl14_reg"].args
    vggt = {key: known["vggt_1b"].args[key] for key in ("img_size", "patch_size", "embed_dim")}
    return {
        "sparse_structure_flow_model": of("ss_flow_scenegen", "ckpts/ss_scenegen_flow_img_dit_L_16l8_fp16"),
        "sparse_structure_decoder": of("ss_dec_conv3d_16l8_fp16"),
        "slat_flow_model": of("slat_flow_img_dit_L_64l8p2_fp16"),
        "slat_decoder_mesh": of("slat_dec_mesh_swin8_B_64l8m256c_fp16"),
        "slat_decoder_gs": of("slat_dec_gs_swin8_B_64l8gs32_fp16"),
        "image_cond_model": of("dinov2_vitl14_reg", "dinov2-with-registers-large/", dinov2),
        "vggt_model": of("vggt_1b", "VGGT-1B/", vggt),
    }


ENCODER_NAMES = {"image_cond_model": "dinov2_vitl14_reg", "vggt_model": "facebook/VGGT-1B"}


def write_random_checkpoint(folder: Path, models: Mapping[str, RandomModel], steps: int, rare: float = RARE) -> None:
    """Write made-up models and the `pipeline.json` that names them, in half precision, one model at a time in memory.

    steps: of both samplers. rare: see RARE, for small grids. `pipeline.json` comes last: without it, nothing takes half
    a checkpoint for a whole one.
    """
    for item in models.values():
        _write(folder, item, rare)
    params = {"steps": steps, **SAMPLER_PARAMS}
    name = "FlowEulerGuidanceIntervalSampler"
    channels = models["slat_flow_model"].args["in_channels"]
    args = {
        "models": {role: item.place for role, item in models.items() if role not in ENCODER_NAMES},
        "sparse_structure_sampler": {"name": f"{name}VGGT", "args": {"sigma_min": 1e-5}, "params": params},
        "slat_sampler": {"name": name, "args": {"sigma_min": 1e-5}, "params": params},
        "slat_normalization": {"mean": [0.0] * channels, "std": [1.0] * channels},
        **ENCODER_NAMES,
    }
    write_json(folder / PIPELINE, {"name": "SceneGenRandom", "args": args})


def _write(folder: Path, item: RandomModel, rare: float) -> None:
    if item.model == "ImageEncoder":
        module: nn.Module = build(ImageEncoder, folder / item.place, {"config": item.args}).backbone
    else:
        kind: Any = MODELS[item.model]
        module = build(kind, folder / item.place, item.args)
    stem = folder / item.place / "model" if item.place.endswith("/") else folder / item.place
    stem.parent.mkdir(parents=True, exist_ok=True)
    if item.config is not None:
        write_json(stem.parent / "config.json", item.config)
    else:
        write_json(with_ending(stem, ".json"), {"name": item.model, "args": dict(item.args)})
    save_file(_tensors(item.model, module, rare), with_ending(stem, ".safetensors"))


def _tensors(model: str, module: nn.Module, rare: float) -> dict[str, Tensor]:
    random = torch.randn(2**20 + 7, generator=torch.Generator().manual_seed(0)).mul_(SPREAD).half()
    tensors = {}
    for name, value in module.state_dict().items():
        if not value.is_meta:
            tensors[name] = value.half()  # a buffer: computed, not learned
        elif name.endswith(("gamma", "lambda1")) or (value.ndim == 1 and name.endswith("weight")):
            tensors[name] = torch.ones(value.shape, dtype=torch.half)
        elif value.ndim == 1:
            tensors[name] = torch.zeros(value.shape, dtype=torch.half)
        else:
            # tiled: drawing thousands of millions of numbers takes minutes, and nobody looks at them
            tensors[name] = (
                random.repeat(-(-value.numel() // len(random)))[: value.numel()].reshape(value.shape).clone()
            )
    if model == "SparseStructureFlowModel":
        _shape_flow(tensors)
    elif model == "SparseStructureDecoder":
        _shape_structure_decoder(tensors, rare)
    elif model == "SLatMeshDecoder":
        tensors["out_layer.bias"][:8] = -0.5  # every corner of an occupied voxel is inside
    return tensors


def _shape_flow(tensors: dict[str, Tensor]) -> None:
    # What comes out is the noise, nearly: with guidance, and smoothed, what is added to all of it counts thirty times.
    tensors["out_layer.weight"] /= 1000
    if "position_head.pose_branch.2.bias" in tensors:
        tensors["position_head.pose_branch.2.weight"] /= 10
        tensors["position_head.pose_branch.2.bias"].fill_(0.5)  # every asset has a size


def _shape_structure_decoder(tensors: dict[str, Tensor], rare: float) -> None:
    """Channel 0 goes through unchanged: latent 0, smoothed and lowered, so that it is seldom above 0."""
    for name, value in tensors.items():
        if name.endswith("conv2.weight"):
            value.zero_()
        elif name.endswith(".conv.weight"):
            value /= 100  # the other channels stay far below it
            value[:8] = 0
            value[:8, 0, 1, 1, 1] = 1
    first = tensors["input_layer.weight"]
    first[0] = 0
    first[0, 0] = 27**-0.5
    tensors["input_layer.bias"][0] = -rare
    channels = tensors["out_layer.0.weight"].numel()
    tensors["out_layer.2.weight"].zero_()[0, 0, 1, 1, 1] = 1
    tensors["out_layer.2.bias"].fill_(-0.5 * (channels - 1) ** 0.5)  # half of what the norm makes of a channel alone
