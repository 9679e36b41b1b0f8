"""Training at published size, in miniature: what moves, what is resumed, what many processes do, and the commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from miniature_future import prepare
from random_checkpoint import FLOW
from released_training import HELD_OUT, SCHEDULE, MiniatureStage
from test_training_loop import assert_equal, checkpoint, free_port

import scenegen.generator.structure.flow as flow_module
from scenegen.cli import main
from scenegen.generator.checkpoints import load_model, save_model
from scenegen.generator.manifests import manifests
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.scene import InvalidInput
from scenegen.training import released_stage
from scenegen.training.cli import CONFIGS
from scenegen.training.initial import TRAINED, start_from_trellis
from scenegen.training.loop import Schedule, run
from scenegen.training.released import PlacementWeight, ReleasedLoss, collision_ratio
from scenegen.training.released_order import GroupOrder, is_held_out
from scenegen.training.released_stage import MOST_VALIDATED, draw_times, flow_of

PROGRAM = Path(__file__).with_name("released_training.py")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return prepare(tmp_path_factory.mktemp("future"), "metadata", "voxels", "latents", "features")


def stage_of(prepared: Mapping[str, Path], **more: Any) -> MiniatureStage:
    return MiniatureStage(prepared["out"], prepared["weights"], **more)


def train_with(prepared: Mapping[str, Path], *, held_out: float = HELD_OUT, **flow: Any) -> None:
    """What the command does with a config of the miniature's sizes but for these."""
    config = {"prepared": {"held_out": held_out}, "flow": FLOW | flow}
    data, weights = prepared["out"], str(prepared["weights"])
    released_stage.train(config, replace(SCHEDULE, steps=1), data.parent / "refused", data=data, weights=weights)


def column(folder: Path, name: str) -> list[float]:
    table = np.genfromtxt(folder / "log.csv", delimiter=",", names=True)
    return table[name].tolist()


def test_every_instance_comes_once_an_epoch_in_groups_of_one_count() -> None:
    counts = {number: (1, 3, 3, 7)[number % 4] for number in range(40)}
    order = GroupOrder(counts, 4)
    assert order.groups == 3 + 5 + 3
    epochs = [[order.group(step) for step in range(first, first + 11)] for first in (0, 11)]
    for groups in epochs:
        assert all(len({counts[number] for number in group}) == 1 for group in groups)
        seen = Counter(number for group in groups for number in group)
        assert set(seen) == set(counts) and seen.total() == 44 and max(seen.values()) == 2
    assert epochs[0] != epochs[1] and order.group(5) == epochs[0][5] == GroupOrder(counts, 4).group(5)
    assert GroupOrder({9: 2}, 3).group(4) == [9, 9, 9], "fewer instances than parts"


def test_a_share_of_the_scenes_is_held_out_by_name_alone() -> None:
    names = [f"{number:07d}" for number in range(20_000)]
    assert np.mean([is_held_out(name, 0.02) for name in names]) == pytest.approx(0.02, abs=0.004)
    assert [is_held_out(name, HELD_OUT) for name in names[:2]] == [True, False]


def test_times_are_logit_normal_and_each_assets_own() -> None:
    times = draw_times(20_000, torch.Generator().manual_seed(0))
    assert float(times.logit().mean()) == pytest.approx(1, abs=0.03)
    assert float(times.logit().std()) == pytest.approx(1, abs=0.03)


def test_a_lone_asset_teaches_the_head_nothing_and_moves_no_weight() -> None:
    weight = PlacementWeight()
    velocity, predicted = torch.ones(1, 4, 2, 2, 2, requires_grad=True), torch.ones(1, 8, requires_grad=True)
    terms = ReleasedLoss(None, weight)(
        velocity, predicted, torch.zeros(1, 4, 2, 2, 2), torch.ones(1, 8), torch.zeros(1, 4, 2, 2, 2), torch.ones(1)
    )
    terms.loss.backward()
    assert float(terms.loss.detach()) == 1 and float(terms.balance) == 0
    assert predicted.grad is not None and not predicted.grad.any(), "zero, so that optimisers do the same everywhere"


def test_collisions_are_counted_and_nothing_decoded_is_none() -> None:
    class Decoded(torch.nn.Module):
        def forward(self, latents: torch.Tensor) -> torch.Tensor:
            return latents

    placements = torch.tensor([[0.0, 0, 0, 1, 0, 0, 0, 1]]).repeat(3, 1)
    full = torch.ones(3, 1, 4, 4, 4)
    assert float(collision_ratio(Decoded(), full, placements)) == pytest.approx(1)
    placements[2, 0] = 3
    assert float(collision_ratio(Decoded(), full, placements)) == 0
    assert float(collision_ratio(Decoded(), full * float("nan"), placements)) == 0
    one = torch.zeros(3, 1, 4, 4, 4)
    one[1, 0, 0, 0, 0] = 1
    assert float(collision_ratio(Decoded(), one, placements)) == 0


def test_the_weight_follows_the_mean_of_all_parts() -> None:
    weight = PlacementWeight()
    assert float(weight(torch.tensor(0.5))) == 0.5, "the first value is not averaged"
    weight.note(0.5)
    assert float(weight(torch.tensor(1.5))) == pytest.approx(0.51)
    assert float(weight(torch.tensor(0.5))) == 0.5, "a part does not move it"
    assert float(weight(torch.tensor(1000.0))) == 1
    weight.note(1.5)
    assert float(weight.average) == pytest.approx(0.51)


def test_a_repeated_scene_is_learned(prepared: Mapping[str, Path], tmp_path: Path) -> None:
    stage = stage_of(prepared, parts=1)
    (number, *_) = stage.order.by_count[3]
    stage.order = GroupOrder({number: 3}, 1)
    run(stage, replace(SCHEDULE, steps=120, learning_rate=3e-3, parts=1, validate_every=120), tmp_path)
    for name in ("loss", "flow", "translation"):
        terms = column(tmp_path, name)
        assert np.mean(terms[-30:]) < 0.75 * np.mean(terms[:10]), name
    assert all(0.2 <= weight <= 1 for weight in column(tmp_path, "weight"))


def test_held_out_scenes_are_validated_and_never_trained_on(prepared: Mapping[str, Path], tmp_path: Path) -> None:
    stage = stage_of(prepared)
    assert [stage.scenes.instances[number][0] for number in stage.validated] == [0] and MOST_VALIDATED > 1
    query = stage.scenes.instances[stage.validated[0]][1]
    pixels = [asset["pixels"] for asset in stage.scenes.scenes[0]["assets"]]
    assert pixels[query] == max(pixels)
    trained = {stage.scenes.instances[number][0] for step in range(20) for number in stage.order.group(step)}
    assert trained == {1}
    run(stage, replace(SCHEDULE, steps=2, validate_every=2), tmp_path)
    table = np.genfromtxt(tmp_path / "validation.csv", delimiter=",", names=True)
    metrics = {name: float(table[name]) for name in table.dtype.names}
    assert set(metrics) == {
        *("step", "error_at_1", "error_at_1_shuffled", "flow", "placement", "collision_ratio"),
        *("translation", "scale_log", "rotation_deg"),
    }
    assert np.isfinite(list(metrics.values())).all()
    with pytest.raises(InvalidInput, match="0 of 2 scenes are held out"):
        train_with(prepared, held_out=0.0)


def test_conditions_are_dropped_whole(prepared: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    stage = stage_of(prepared)
    seen: list[torch.Tensor] = []
    whole = SparseStructureFlowModel.forward

    def note(self: Any, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> Any:
        seen.append(cond)
        assert 0 < float(t.min()) and 1 < float(t.max()) <= 1000 and len(set(t.tolist())) == len(x)
        return whole(self, x, t, cond)

    monkeypatch.setattr(SparseStructureFlowModel, "forward", note)
    for step in range(30):
        stage.begin(step, 0)
        stage.loss(np.random.default_rng(step), torch.Generator().manual_seed(step))
    empty = torch.cat(seen).any(-1).logical_not()
    assert (empty.any(1) == empty.all(1)).all(), "of an asset all tokens or none"
    assert len(empty) == 90 and 0.02 < float(empty.all(1).float().mean()) < 0.25
    assert seen[0].shape[1:] == (3 * 9 + 2 * 14, 32), "asset, mask and scene tokens, and both halves of geometry"


def test_an_interrupted_run_ends_as_one_that_was_not(prepared: Mapping[str, Path], tmp_path: Path) -> None:
    run(stage_of(prepared), SCHEDULE, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(stage_of(prepared, fail_at=10), SCHEDULE, tmp_path / "cut")
    resumed = stage_of(prepared)
    run(resumed, SCHEDULE, tmp_path / "cut")
    assert resumed.calls == 4, "four of the six steps stand in the checkpoint"
    whole, cut = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "cut")
    assert_equal(whole, cut)
    assert float(whole["model"]["weight.average"]) > 0  # type: ignore[index]
    assert (tmp_path / "whole/log.csv").read_text() == (tmp_path / "cut/log.csv").read_text()


def test_two_processes_train_as_one_that_does_both_parts(prepared: Mapping[str, Path], tmp_path: Path) -> None:
    rendezvous = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    words = [sys.executable, str(PROGRAM), str(tmp_path / "two"), str(prepared["out"]), str(prepared["weights"])]
    both = [subprocess.Popen(words, env=rendezvous | {"RANK": str(rank)}) for rank in range(2)]
    run(stage_of(prepared), replace(SCHEDULE, steps=4), tmp_path / "one")
    assert [process.wait(timeout=250) for process in both] == [0, 0]
    # A bias of keys shifts all scores alike: its gradient is rounding, of which AdamW makes steps of full size.
    one, two = (
        {name: value for name, value in state["model"].items() if not name.endswith(("to_kv.bias", "to_qkv.bias"))}  # type: ignore[attr-defined]
        for state in (checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two"))
    )
    assert float(one["weight.average"]) > 0
    assert_equal(one, two, atol=1e-5, rtol=1e-4)
    for name in ("loss", "weight", "balance", "grad_norm"):
        np.testing.assert_allclose(column(tmp_path / "one", name), column(tmp_path / "two", name), rtol=1e-3)


def test_gradient_checkpointing_is_used_and_changes_nothing(
    prepared: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    whole = flow_module.checkpoint

    def count(*words: Any, **named: Any) -> Any:
        calls.append(words[0])
        return whole(*words, **named)

    monkeypatch.setattr(flow_module, "checkpoint", count)
    gradients = []
    for saving in (False, True):
        stage = stage_of(prepared, use_checkpoint=saving, num_blocks=2)
        stage.begin(0, 0)
        stage.loss(np.random.default_rng(0), torch.Generator().manual_seed(0))["loss"].backward()
        gradients.append([p.grad for p in stage.model.parameters()])
        assert len(calls) == (2 if saving else 0)
    assert_equal(*gradients, atol=1e-7, rtol=1e-5)


def test_models_that_do_not_fit_the_data_are_refused(prepared: Mapping[str, Path]) -> None:
    with pytest.raises(InvalidInput, match="flow's local_tokens.* are 9 and 5"):
        train_with(prepared, local_tokens=5)
    with pytest.raises(InvalidInput, match="latents .* are .4, 4, 4, 4. and .4, 8, 8, 8."):
        train_with(prepared, resolution=8)
    with pytest.raises(InvalidInput, match="has use_global and no readout"):
        train_with(prepared, use_global=False)


def test_the_commands_train_what_the_paper_trains_and_export_it(
    prepared: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(5)
    local = FLOW | {"use_global": False}
    published = SparseStructureFlowModel(**local)
    save_model(tmp_path / "trellis", "ss_flow", published, local, torch.float32)
    schedule = vars(replace(SCHEDULE, steps=9, precision="fp16"))
    config = {"prepared": {"held_out": HELD_OUT}, "flow": FLOW | {"use_fp16": True}, "structure": schedule}
    path = tmp_path / "small.json"
    path.write_text(json.dumps(config))
    common = ["--config", str(path), "--runs", str(tmp_path / "runs")]
    words = ["train", "structure", *common, "--data", str(prepared["out"]), "--steps", "2"]
    init = ["--init", str(tmp_path / "trellis/ss_flow.safetensors")]
    assert main([*words, *init]) == 2 and "--weights the checkpoint" in capsys.readouterr().err
    assert main([*words, *init, "--weights", str(prepared["weights"])]) == 0
    state: dict[str, torch.Tensor] = checkpoint(tmp_path / "runs/structure")["model"]  # type: ignore[assignment]
    given = published.state_dict()
    assert len(given) > 20 and all(torch.equal(state[f"flow.{name}"], value) for name, value in given.items())
    norms = {name: value for name, value in state.items() if "norm4" in name}
    assert norms and all((value == float("weight" in name)).all() for name, value in norms.items())

    assert main(["train", "export", *common, "--out", str(tmp_path / "out")]) == 0
    exported = load_model(tmp_path / "out/ss_flow", SparseStructureFlowModel)
    assert exported.dtype == torch.float16, "as the config says, though trained in float32"
    average = checkpoint(tmp_path / "runs/structure")["average"]
    name = "position_head.pose_branch.2.bias"
    kept = average[f"module.flow.{name}"]  # type: ignore[index]
    torch.testing.assert_close(exported.state_dict()[name], kept, atol=1e-3, rtol=1e-3)

    assert main(["train", "encoders", *common]) == 2
    assert "is for the stages structure and export" in capsys.readouterr().err
    assert main(["train", "structure", "--runs", str(tmp_path / "runs"), "--data", str(prepared["out"])]) == 2
    assert "tiny.json is not" in capsys.readouterr().err


def test_what_is_trained_moves_and_nothing_else(prepared: Mapping[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(5)
    local = FLOW | {"use_global": False}
    save_model(tmp_path, "ss_flow", SparseStructureFlowModel(**local), local)
    stage = stage_of(prepared)
    start_from_trellis(stage.model.flow, tmp_path / "ss_flow.safetensors")
    frozen = [stage.image_encoder, stage.criterion.decoder]
    before = {name: value.clone() for name, value in stage.model.state_dict().items()}
    others = [value.clone() for model in frozen if model is not None for value in model.state_dict().values()]
    run(stage, replace(SCHEDULE, steps=2), tmp_path / "run")
    moved = {name for name, value in stage.model.state_dict().items() if not torch.equal(value, before[name])}
    # the head attends to single tokens, so that queries and keys do nothing
    still = {f"flow.position_head.trunk.0.attn.{part}_rms_norm.gamma" for part in "qk"}
    assert moved == {name for name in before if TRAINED.search(name)} - still | {"weight.average"}
    assert_equal(others, [v for model in frozen if model is not None for v in model.state_dict().values()])


def test_the_config_has_the_published_sizes_and_the_released_schedule() -> None:
    config = json.loads((CONFIGS / "full.json").read_text())
    published = dict(manifests()["ss_flow_scenegen"].args)
    assert config["flow"] | {"use_checkpoint": False} == published
    schedule = Schedule(**config["structure"])
    assert [schedule.rate(step) for step in (0, 999_999)] == [5e-5, 5e-5]
    with torch.device("meta"):
        flow = flow_of(config)
    assert {name: tuple(value.shape) for name, value in flow.state_dict().items()} == dict(
        manifests()["ss_flow_scenegen"].tensors
    )
    assert flow.dtype == torch.float32 and flow.use_checkpoint
