"""A checkpoint folder of the smallest SceneGen that has every part, with random weights.

The mesh decoder's output layer is biased so that every corner of an occupied voxel is inside, whatever the latents say:
its surface closes around the occupied voxels, as a trained decoder's does, and only its colours are random.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scenegen.generator.checkpoints import save_image_encoder, save_model, save_pipeline
from scenegen.generator.encoders.dinov2 import ImageEncoder
from scenegen.generator.encoders.vggt import VGGTAggregator
from scenegen.generator.latents.flow import SLatFlowModel
from scenegen.generator.latents.gaussian_decoder import SLatGaussianDecoder
from scenegen.generator.latents.mesh_decoder import SLatMeshDecoder
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.generator.structure.vae import SparseStructureDecoder, SparseStructureEncoder
from scenegen.scene import View
from scenegen.training import shards

IMAGE_ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "num_register_tokens": 4,
}
GEOMETRY_ENCODER = {
    "embed_dim": 32,
    "patch_embed_vit": {"depth": 1, "num_heads": 2},
    "aa_depth": 1,
    "aa_heads": 2,
    "img_size": 42,
}
FLOW = {
    "resolution": 4,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "cond_channels": 32,
    "num_blocks": 1,
    "num_heads": 2,
    "patch_size": 2,
    "qk_rms_norm": True,
    "use_global": True,
    "trunk_depth": 1,
    "num_iteration": 2,
    "local_tokens": 9,
}
DECODER = {
    "out_channels": 1,
    "latent_channels": 4,
    "num_res_blocks": 0,
    "num_res_blocks_middle": 1,
    "channels": [16, 8],
}
ENCODER = {"in_channels": 1, "latent_channels": 4, "num_res_blocks": 0, "num_res_blocks_middle": 1, "channels": [8, 16]}
READOUT = {"channels": 32, "latent_tokens": 8, "latent_channels": 32, "local_tokens": 9, "num_heads": 2, "depth": 1}
LATENT_FLOW = {
    "resolution": 8,
    "in_channels": 8,
    "out_channels": 8,
    "model_channels": 32,
    "cond_channels": 32,
    "num_blocks": 1,
    "num_heads": 2,
    "patch_size": 2,
    "io_block_channels": [16],
    "qk_rms_norm": True,
}
_TRANSFORMER = {"resolution": 8, "latent_channels": 8, "num_blocks": 1, "mlp_ratio": 1, "window_size": 4}
MESH_DECODER = _TRANSFORMER | {
    "model_channels": 256,  # the smallest whose groups of channels come out even
    "num_heads": 4,
}
GAUSSIAN_DECODER = _TRANSFORMER | {
    "model_channels": 32,
    "num_heads": 2,
    "representation_config": {
        "lr": {"_xyz": 1.0, "_features_dc": 1.0, "_opacity": 1.0, "_scaling": 1.0, "_rotation": 0.1},
        "perturb_offset": True,
        "voxel_size": 1.5,
        "num_gaussians": 4,
        "3d_filter_kernel_size": 9e-4,
        "scaling_bias": 4e-3,
        "opacity_bias": 0.1,
        "scaling_activation": "softplus",
    },
}
PIPELINE: dict[str, Any] = {
    "models": {"sparse_structure_flow_model": "ss_flow", "sparse_structure_decoder": "ss_dec"},
    "sparse_structure_sampler": {
        "name": "FlowEulerGuidanceIntervalSamplerVGGT",
        "args": {"sigma_min": 1e-5},
        "params": {"steps": 3, "cfg_strength": 1.0, "cfg_interval": [0.5, 1.0], "rescale_t": 3.0},
    },
    "image_cond_model": "dinov2",
    "vggt_model": "vggt",
    "multiview": "published",
}
LATENT_PIPELINE: dict[str, Any] = PIPELINE | {
    "models": PIPELINE["models"]
    | {"slat_flow_model": "slat_flow", "slat_decoder_mesh": "slat_dec_mesh", "slat_decoder_gs": "slat_dec_gs"},
    "slat_sampler": {
        "name": "FlowEulerGuidanceIntervalSampler",
        "args": {"sigma_min": 1e-5},
        "params": {"steps": 3, "cfg_strength": 1.0, "cfg_interval": [0.5, 1.0], "rescale_t": 3.0},
    },
    "slat_normalization": {"mean": [0.0] * 8, "std": [1.0] * 8},
}


def write_random_checkpoint(folder: Path, *, latents: bool = False, colours: bool = True) -> Path:
    """Write it into folder, always the same, and return folder.

    latents: one that makes textured assets. colours: whether they come from the mesh decoder, or from Gaussians.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_image_encoder(folder / "dinov2", ImageEncoder(IMAGE_ENCODER))
        save_model(folder, "vggt", VGGTAggregator(**GEOMETRY_ENCODER), GEOMETRY_ENCODER)
        flow = SparseStructureFlowModel(**FLOW)
        # sizes above 0 whatever the position token says: the head's relu would drop the objects
        torch.nn.init.normal_(flow.position_head.pose_branch[2].weight, std=1e-3)
        torch.nn.init.constant_(flow.position_head.pose_branch[2].bias, 0.5)
        save_model(folder, "ss_flow", flow, FLOW)
        save_model(folder, "ss_dec", SparseStructureDecoder(**DECODER), DECODER)
        if latents:
            save_model(folder, "slat_flow", SLatFlowModel(**LATENT_FLOW), LATENT_FLOW)
            mesh_args = MESH_DECODER | {"representation_config": {"use_color": colours}}
            mesh_decoder = SLatMeshDecoder(**mesh_args)
            torch.nn.init.normal_(mesh_decoder.out_layer.weight, std=0.02)
            torch.nn.init.constant_(mesh_decoder.out_layer.bias[:8], -0.5)
            save_model(folder, "slat_dec_mesh", mesh_decoder, mesh_args)
            save_model(folder, "slat_dec_gs", SLatGaussianDecoder(**GAUSSIAN_DECODER), GAUSSIAN_DECODER)
    save_pipeline(folder, LATENT_PIPELINE if latents else PIPELINE)
    return folder


def write_small_checkpoint(folder: Path) -> Path:
    """The same with a readout and a structure encoder, as `export` writes small models; training can go on from it."""
    write_random_checkpoint(folder)
    args = FLOW | {"readout": READOUT}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_model(folder, "ss_flow", SparseStructureFlowModel(**args), args)
        save_model(folder, "ss_enc", SparseStructureEncoder(**ENCODER), ENCODER)
    save_pipeline(folder, PIPELINE | {"models": PIPELINE["models"] | {"sparse_structure_encoder": "ss_enc"}})
    return folder


def make_small_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shard of six synthetic scenes to train on and one held out, of the checkpoint's sizes; folder."""
    monkeypatch.setattr(shards, "SCENES_PER_SHARD", 6)
    for name, seed in (("data", 1_000_000), ("held_out", 500_000)):
        (folder / name).mkdir(parents=True)
        shards._make_shard((folder / name, seed, 28, 42, 8))
    return folder


def drawn_view(*, shift: int = 0, height: int = 60, width: int = 80) -> View:
    """Three coloured rectangles on grey; ids 3, 5 and 8, of which 5 is the largest."""
    image = np.full((height, width, 3), 120, dtype=np.uint8)
    masks = np.zeros((height, width), dtype=np.int32)
    for i, rows, columns, colour in (
        (3, slice(5, 20), slice(5, 25), (200, 30, 30)),
        (5, slice(25, 55), slice(20, 60), (30, 200, 30)),
        (8, slice(8, 20), slice(60, 72), (30, 30, 200)),
    ):
        masks[rows, columns] = i
        image[rows, columns] = colour
    return View(np.roll(image, shift, axis=1), np.roll(masks, shift, axis=1))
