"""Training that goes on from a whole SceneGen: what is taken over, what may be new, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from random_checkpoint import (
    DECODER,
    ENCODER,
    FLOW,
    GEOMETRY_ENCODER,
    IMAGE_ENCODER,
    PIPELINE,
    READOUT,
    make_small_data,
    write_small_checkpoint,
)
from safetensors.torch import load_file
from torch import Tensor

from scenegen.cli import main
from scenegen.generator.checkpoints import save_model, save_pipeline
from scenegen.generator.pipeline import SceneGen
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.scene import InvalidInput
from scenegen.training.initial import Checkpoint, is_scenegen
from scenegen.training.loop import load_average
from scenegen.training.stages import standard_vae, trained_encoders

SCHEDULE = {"steps": 2, "learning_rate": 1e-3, "warmup": 1, "precision": "fp32"}
CONFIG: dict[str, Any] = {
    "data": {"scenes": 6, "held_out_scenes": 6, "first_seed": 1_000_000, "held_out_seed": 500_000},
    "resolution": 8,
    "structure_encoder": ENCODER,
    "structure_decoder": DECODER,
    "image_encoder": IMAGE_ENCODER,
    "geometry_encoder": GEOMETRY_ENCODER,
    "flow": FLOW | {"readout": READOUT},
    "sampler": {"steps": 2, "cfg_strength": 0.0},
    "encoders": SCHEDULE,
    "structure": SCHEDULE,
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_small_checkpoint(tmp_path / "weights")


def grown(config: dict[str, Any]) -> dict[str, Any]:
    """The same with a layer more in the image encoder and the readout, and with rays."""
    readout = READOUT | {"depth": 2, "ray_token": True}
    image = config["image_encoder"] | {"num_hidden_layers": 2}
    return config | {"image_encoder": image, "flow": config["flow"] | {"readout": readout}}


def test_what_the_checkpoint_lacks_changes_nothing_to_begin_with(weights: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small, large = (trained_encoders(c, tmp_path, Checkpoint(weights)).eval() for c in (CONFIG, grown(CONFIG)))
    images, unknown = torch.rand(2, 3, 28, 28), torch.zeros(2, 7)
    known = torch.tensor([[1, 0.1, -0.6, -0.2, 0.2, -0.5, -0.7], [1, -0.1, -0.7, -0.1, 0.1, -0.6, -0.8]])
    with torch.no_grad():
        tokens = small.conditioner.image_encoder(images)
        torch.testing.assert_close(large.conditioner.image_encoder(images), tokens)
        before, after = small.readout.of_assets(tokens, unknown), large.readout.of_assets(tokens, known)
    torch.testing.assert_close(after.latents, before.latents)
    torch.testing.assert_close(after.yaw_logits, before.yaw_logits)


def test_the_structure_vae_stands_in_where_none_was_trained(weights: Path, tmp_path: Path) -> None:
    vae = standard_vae(CONFIG, tmp_path, Checkpoint(weights))
    grids = (torch.rand(2, 1, 8, 8, 8) > 0.7).float()
    whole = SceneGen.from_pretrained(weights)
    with torch.no_grad():
        latents = vae.encoder(grids)
        torch.testing.assert_close(vae.decoder(latents), whole.decoder(latents))
    with pytest.raises(InvalidInput, match="train that stage first"):
        standard_vae(CONFIG, tmp_path)


def test_other_sizes_are_named(weights: Path, tmp_path: Path) -> None:
    wider = CONFIG | {"image_encoder": IMAGE_ENCODER | {"hidden_size": 64}}
    with pytest.raises(InvalidInput, match=r"Conditioner of .*weights does not fit the config's: .*expected"):
        trained_encoders(wider, tmp_path, Checkpoint(weights))
    save_pipeline(weights, PIPELINE)
    with pytest.raises(InvalidInput, match="has no sparse_structure_encoder"):
        standard_vae(CONFIG, tmp_path, Checkpoint(weights))


def test_trellis_is_no_whole_scenegen(weights: Path, tmp_path: Path) -> None:
    local = FLOW | {"use_global": False}
    save_model(tmp_path / "trellis", "ss_flow", SparseStructureFlowModel(**local), local)
    save_pipeline(tmp_path / "trellis", {"models": {"sparse_structure_flow_model": "ss_flow"}})
    assert is_scenegen(weights) and is_scenegen("tiny")
    assert not is_scenegen(tmp_path / "trellis") and not is_scenegen(weights / "ss_flow.safetensors")


def test_fine_tuning_needs_two_stages_and_writes_weights_that_generate(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = make_small_data(tmp_path / "runs", monkeypatch)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(grown(CONFIG)))
    words = ["--config", str(config), "--runs", str(runs), "--init", str(weights)]
    assert main(["train", "encoders", *words]) == 0
    assert main(["train", "structure", *words, "--rate", "1e-4"]) == 0
    assert main(["train", "export", *words, "--out", str(tmp_path / "tuned")]) == 0
    assert SceneGen.from_pretrained(tmp_path / "tuned").conditioner.ray_token
    capsys.readouterr()
    assert main(["train", "data", *words]) == 2
    assert "data trains nothing" in capsys.readouterr().err


def test_encoders_that_were_trained_on_bring_their_readout(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The readout is trained with the encoders and used by the flow: one of before fits no encoder of now."""
    runs = make_small_data(tmp_path / "runs", monkeypatch)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG))
    words = ["--config", str(config), "--runs", str(runs), "--init", str(weights)]

    def trained() -> Tensor:
        return trained_encoders(CONFIG, runs).get_parameter("readout.to_yaw.weight")

    def exported() -> Tensor:
        assert main(["train", "export", *words, "--out", str(tmp_path / "out")]) == 0
        return load_file(tmp_path / "out/ss_flow.safetensors")["readout.to_yaw.weight"].float()

    for stage in ("encoders", "structure"):
        assert main(["train", stage, *words]) == 0
    before = trained()
    assert main(["train", "encoders", *words, "--steps", "4", "--rate", "0.1"]) == 0
    assert (trained() - before).abs().max() > 0.01, "or the test could not fail"
    torch.testing.assert_close(exported(), trained(), atol=1e-3, rtol=0)
    assert main(["train", "structure", *words, "--steps", "4"]) == 0
    flow = load_average(runs / "structure", SparseStructureFlowModel(**CONFIG["flow"]))
    torch.testing.assert_close(flow.get_parameter("readout.to_yaw.weight"), trained())
    torch.testing.assert_close(exported(), trained(), atol=1e-3, rtol=0)
