"""The self-test at a reduced size: the same code, layout and names as at the published one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from random_checkpoint import (
    DECODER,
    FLOW,
    GAUSSIAN_DECODER,
    GEOMETRY_ENCODER,
    IMAGE_ENCODER,
    LATENT_FLOW,
    MESH_DECODER,
)

from scenegen import cli
from scenegen.commands.selftest import measure, report
from scenegen.generator.checkpoints import models
from scenegen.generator.checkpoints.inspection import inspect
from scenegen.generator.checkpoints.random_weights import RandomModel, published_models, write_random_checkpoint
from scenegen.generator.manifests import manifests

WHOLE_VGGT = GEOMETRY_ENCODER | {
    "aa_depth": 4,
    "patch_size": 14,
    "camera_head": {"dim_in": 64, "num_heads": 2, "trunk_depth": 1, "iterations": 2},
    "dpt": {"features": 8, "out_channels": [4, 4, 4, 4], "intermediate_layer_idx": [0, 1, 2, 3]},
}
SIZES = {
    "sparse_structure_flow_model": FLOW,
    "sparse_structure_decoder": DECODER,
    "slat_flow_model": LATENT_FLOW,
    "slat_decoder_mesh": MESH_DECODER | {"representation_config": {"use_color": True}},
    "slat_decoder_gs": GAUSSIAN_DECODER,
    "image_cond_model": IMAGE_ENCODER,
    "vggt_model": WHOLE_VGGT,
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, RandomModel]:
    """The published models, smaller."""
    monkeypatch.setattr(models, "VGGT_1B", WHOLE_VGGT)
    made = {role: replace(item, args=SIZES[role]) for role, item in published_models().items()}
    made["image_cond_model"] = replace(made["image_cond_model"], config=IMAGE_ENCODER)
    made["vggt_model"] = replace(made["vggt_model"], config={"embed_dim": 32, "img_size": 42, "patch_size": 14})
    return made


def test_one_scene_is_made_and_every_stage_measured(small: dict[str, RandomModel], tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, small, steps=1, rare=0.5)
    assert not [part for part in inspect(tmp_path) if part.troubles]
    scene, stages = measure(tmp_path, 2, "cpu", "low", "textured")
    assert len(scene.assets) == 2
    names = ["loading", "conditioning", "structure", "assets", "latents", "textures"]
    assert [stage.name for stage in stages] == names
    assert all(stage.seconds > 0 and 1e7 < stage.peak_bytes < 16e9 for stage in stages)
    lines = report(scene, stages, "cpu")
    assert len(lines) == len(stages) + 3 and "2 assets of random weights" in lines[-1]


def test_the_full_size_is_the_published_one() -> None:
    full = published_models()
    assert set(full) == set(SIZES)
    whole = sum(manifests()[name].count for name in manifests() if name.startswith(("vggt", "dino", "ss_flow_scene")))
    assert whole == pytest.approx(908.8e6 + 4.2e6 + 304.4e6 + 1190.6e6, rel=0.01)
    assert full["sparse_structure_flow_model"].args["num_blocks"] == 24


@pytest.mark.parametrize("arguments", [["--assets", "0"], ["--steps", "0"]])
def test_what_makes_no_sense_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["selftest", "--full-size", *arguments]) == 2
    assert "must be 1 or more" in capsys.readouterr().err
