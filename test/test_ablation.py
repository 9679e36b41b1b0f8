"""Ablations: each leaves out what it says and nothing else, and the command trains, resumes and scores them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from random_checkpoint import FLOW, PIPELINE, READOUT, drawn_view, make_small_data, write_small_checkpoint
from torch import nn

from scenegen.cli import main
from scenegen.generator.checkpoints import save_pipeline
from scenegen.generator.pipeline import SceneGen
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.scene import InvalidInput
from scenegen.training import ablation
from scenegen.training.ablation import ABLATIONS, AblatedConditioner, AssetLevelFlow, load_start, out_of_order


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_small_checkpoint(tmp_path / "weights")


@pytest.mark.parametrize("name", list(ABLATIONS))
def test_what_is_left_out_is_zero_and_the_rest_as_before(name: str, weights: Path) -> None:
    conditioner = SceneGen.from_pretrained(weights).conditioner
    left_out = ABLATIONS[name].left_out
    with torch.no_grad():
        whole = conditioner.encode([drawn_view()], [5, 3])
        ablated = AblatedConditioner(conditioner, left_out).encode([drawn_view()], [5, 3])
    blocks = {"asset": slice(0, 9), "mask": slice(9, 18), "scene": slice(18, 27), "geometry": slice(27, None)}
    for block, span in blocks.items():
        expected = torch.zeros(()) if block in left_out else whole[:, :, span]
        assert torch.equal(ablated[:, :, span], expected.expand_as(ablated[:, :, span]))


def test_asset_level_attention_sees_no_other_asset() -> None:
    torch.manual_seed(0)
    args = FLOW | {"readout": None}
    scene_level = SparseStructureFlowModel(**args)
    asset_level = AssetLevelFlow(**args)
    for parameter in scene_level.parameters():
        nn.init.normal_(parameter, std=0.2)
    asset_level.load_state_dict(scene_level.state_dict())
    x, cond = torch.randn(3, 4, 4, 4, 4), torch.randn(3, 30, 32)
    changed = x.clone()
    changed[2] += 1
    t = torch.full((3,), 700.0)
    with torch.no_grad():
        moved = [
            (flow(changed, t, cond)[0] - flow(x, t, cond)[0])[:2].abs().max() for flow in (scene_level, asset_level)
        ]
        alone = asset_level(x[:1], t[:1], cond[:1])
        together = asset_level(x, t, cond)
    assert moved[0] > 1e-3 and moved[1] == 0
    assert torch.allclose(alone[0], together[0][:1], atol=1e-5) and torch.allclose(alone[1], together[1][:1], atol=1e-5)


def test_rows_that_are_better_than_the_paper_says_are_told() -> None:
    rows = {name: dict(row.published) for name, row in ABLATIONS.items()}
    assert out_of_order(rows) == []
    rows["mask"]["f_s"] = 80.0
    assert len(out_of_order(rows)) == 1 and "f_s: without mask +0.92" in out_of_order(rows)[0]


def test_the_command_trains_and_scores_rows_and_does_not_train_them_twice(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {name: ABLATIONS[name] for name in ("nothing", "scene_attention")}
    monkeypatch.setattr(ablation, "ABLATIONS", chosen)
    runs = make_small_data(tmp_path / "runs", monkeypatch)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"structure": {"steps": 9, "learning_rate": 1e-3, "warmup": 1, "precision": "fp32"}}))
    words = ["ablate", "--weights", str(weights), "--runs", str(runs), "--config", str(config), "--steps", "2"]
    words += ["--scenes", "1", "--seed", "42001", "--out", str(tmp_path / "rows"), "--json", str(tmp_path / "a.json")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "without scene_attention" in said and "paper: nothing" in said and "order" in said
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["steps"] == 2 and list(written["rows"]) == list(chosen)
    assert all({"f_s", "iou_b", "scenes"} <= set(row) for row in written["rows"].values())
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 3
    logs = sorted((tmp_path / "rows").glob("*/*/log.csv"))
    assert len(logs) == 4 and all(len(log.read_text().splitlines()) == 3 for log in logs)
    before = [
        (tmp_path / f"rows/nothing/{stage}/checkpoint.pt").stat().st_mtime_ns for stage in ("readout", "structure")
    ]
    monkeypatch.setattr(ablation, "ABLATIONS", {"nothing": ABLATIONS["nothing"]})
    assert main(words) == 0
    after = [
        (tmp_path / f"rows/nothing/{stage}/checkpoint.pt").stat().st_mtime_ns for stage in ("readout", "structure")
    ]
    assert before == after
    assert json.loads((tmp_path / "a.json").read_text())["rows"]["nothing"]["f_s"] == pytest.approx(
        written["rows"]["nothing"]["f_s"]
    )


def test_rows_start_from_the_same_weights_and_need_an_encoder(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = load_start(weights, make_small_data(tmp_path / "runs", monkeypatch), "cpu")
    assert start.vae.encoder.out_layer[-1].out_channels == 8 and start.flow_args["readout"] == READOUT
    grids = torch.from_numpy(start.train.occupancy(np.arange(2)))
    assert start.vae.decoder(start.vae.encoder(grids)).shape == grids.shape
    save_pipeline(weights, PIPELINE)
    with pytest.raises(InvalidInput, match="no sparse_structure_encoder"):
        load_start(weights, tmp_path / "runs", "cpu")
