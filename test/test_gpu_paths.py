"""What runs on a GPU, run on a pretended one: tensors in the wrong place, numpy of tensors there, mixed dtypes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pretended_gpu import pretended_gpu
from random_checkpoint import drawn_view, write_random_checkpoint

from scenegen.generator.encoders.vggt_cameras import VGGT
from scenegen.generator.geometry import estimate_views
from scenegen.generator.pipeline import SceneGen

GPU = "cuda:0"
HALVED = ("ss_flow", "ss_dec", "slat_flow", "slat_dec_mesh", "slat_dec_gs")


def changed(path: Path, **entries: object) -> None:
    content = json.loads(path.read_text())
    content["args"] |= entries
    path.write_text(json.dumps(content))


def test_the_pretended_gpu_tells_what_a_real_one_would() -> None:
    with pretended_gpu():
        there = torch.arange(6, device=GPU).float()
        assert there.is_cuda and (there @ there).item() == 55
        assert there[torch.tensor([1, 2])].tolist() == [1, 2], "indices may be in the processor's memory"
        with pytest.raises(RuntimeError, match="on the CPU"):
            there + torch.ones(6)
        with pytest.raises(RuntimeError, match="on the CPU"):
            there.index_select(0, torch.tensor([0]))
        with pytest.raises(RuntimeError, match="on the CPU"):
            torch.ones(6)[there.long()]
        with pytest.raises(TypeError, match="cpu"):
            np.asarray(there)
        assert isinstance(there.cpu().numpy(), np.ndarray)


def test_a_textured_scene(tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path / "weights", latents=True, colours=False)
    changed(folder / "pipeline.json", latent_voxels="surface")
    for name in HALVED:
        changed(folder / f"{name}.json", use_fp16=True)
    with pretended_gpu():
        model = SceneGen.from_pretrained(folder, device=GPU, memory="low")
        assert model.latents is not None and model.flow.dtype == model.latents.flow.dtype == torch.float16
        scene = model.generate([drawn_view()], ids=[3, 5])
    assert [asset.detail for asset in scene.assets] == ["textured"] * 2


def test_the_packaged_weights() -> None:
    with pretended_gpu():
        scene = SceneGen.from_pretrained("tiny", device=GPU).generate([drawn_view()], detail="coarse")
    assert len(scene.assets) > 0


def test_geometry_from_images() -> None:
    heads = {"dim_in": 64, "num_heads": 2, "trunk_depth": 1, "iterations": 2}
    dense = {"features": 8, "out_channels": [4, 4, 4, 4], "intermediate_layer_idx": [0, 1, 2, 3]}
    vit = {"depth": 1, "num_heads": 2}
    with pretended_gpu():
        model = VGGT(
            camera_head=heads, dpt=dense, embed_dim=32, patch_embed_vit=vit, aa_depth=4, aa_heads=2, img_size=42
        )
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        torch.nn.init.constant_(model.camera_head.pose_branch.fc2.bias, 0.5)  # fields of view that a camera can have
        model.load_state_dict({name: value.to(GPU) for name, value in model.state_dict().items()}, assign=True)
        estimated = estimate_views([drawn_view(), drawn_view(shift=3)], model.eval().to(GPU), 42, GPU)
    assert all(view.depth_m is not None and view.T_world_camera is not None for view in estimated.views)
