"""The training loop: a killed run resumes as if it had not been, many processes do what one does, logs can be read."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from line_training import SCHEDULE, LineStage
from random_checkpoint import FLOW
from torch import nn

from scenegen.cli import main
from scenegen.generator.checkpoints import save_model, save_pipeline
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.scene import InvalidInput
from scenegen.training.clipping import REMEMBERED, GradientClip
from scenegen.training.distributed import Group, own_device
from scenegen.training.events import EventFile, checksum
from scenegen.training.initial import start_from_trellis
from scenegen.training.loop import Schedule, load_average, run

PROGRAM = Path(__file__).with_name("line_training.py")
FP32 = Schedule(**SCHEDULE, precision="fp32")


pytestmark = pytest.mark.usefixtures("one_thread")


def start(*words: object, **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | more)


def checkpoint(folder: Path) -> dict[str, object]:
    state: dict[str, object] = torch.load(folder / "checkpoint.pt", weights_only=True)
    return state


def assert_equal(a: object, b: object, **tolerance: float) -> None:
    """Everything in two checkpoints, tensors to within a tolerance."""
    assert type(a) is type(b)
    if isinstance(a, dict) and isinstance(b, dict):
        assert list(a) == list(b)
        for key in a:
            assert_equal(a[key], b[key], **tolerance)
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        for left, right in zip(a, b, strict=True):
            assert_equal(left, right, **tolerance)
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        torch.testing.assert_close(a, b, **(tolerance or {"atol": 0, "rtol": 0}))
    else:
        assert a == b


def test_a_run_killed_three_times_ends_as_one_that_was_not(tmp_path: Path) -> None:
    with start("kill", tmp_path / "cut") as program:
        whole = run(LineStage(), FP32, tmp_path / "whole")
        ended = program.communicate(timeout=250)[0].splitlines()[-1]
        assert ended.split() == [str(int(signal.SIGKILL))] * 3 + ["0"]
    assert_equal(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "cut"))
    for name in ("log.csv", "validation.csv"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "cut" / name).read_text()
    assert (tmp_path / "cut/losses.png").stat().st_size > 1000
    kept = load_average(tmp_path / "cut", LineStage().model)
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), whole.parameters(), strict=True))


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    run(LineStage(), FP32, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(LineStage(fail_at=27), FP32, tmp_path / "cut")
    resumed = LineStage()
    run(resumed, FP32, tmp_path / "cut")
    assert resumed.calls == 20, "the first 20 steps stand in the checkpoint"
    assert_equal(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "cut"))


def test_a_part_of_an_earlier_stage_is_as_given_and_not_as_kept(tmp_path: Path) -> None:
    def stage(value: float) -> LineStage:
        made = LineStage()
        nn.init.constant_(made.model[3].weight.requires_grad_(False), value)  # type: ignore[index]
        return made

    run(stage(0.1), replace(FP32, steps=20), tmp_path, given="3")
    resumed = stage(0.2)
    average = run(resumed, FP32, tmp_path, given="3")
    assert resumed.calls == 20, "the rest of it goes on"
    for name, model in (("model", resumed.model), ("average", average)):
        assert torch.all(model[3].weight == 0.2), name  # type: ignore[index]
    kept = load_average(tmp_path, LineStage().model)
    assert torch.all(kept[3].weight == 0.2)  # type: ignore[index]


def test_what_norms_were_of_late_is_remembered_by_a_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scenegen.training.clipping.REMEMBERED", 12)
    released = replace(FP32, optimiser="adamw", betas=[0.9, 0.999], decay=False, clip_norm=100, clip_percentile=20)
    run(LineStage(), released, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(LineStage(fail_at=27), released, tmp_path / "cut")
    run(LineStage(), released, tmp_path / "cut")
    state = checkpoint(tmp_path / "cut")
    assert_equal(checkpoint(tmp_path / "whole"), state)
    assert len(state["clip"]["norms"]) == 12  # type: ignore[index]
    assert [released.rate(step) for step in (4, 5, 39)] == [released.learning_rate] * 3
    (optimiser,) = state["optimisers"]  # type: ignore[misc]
    assert optimiser["param_groups"][0]["betas"] == (0.9, 0.999)
    run(LineStage(), replace(released, clip_percentile=None), tmp_path / "free")
    weights = [checkpoint(tmp_path / name)["model"]["0.weight"] for name in ("whole", "free")]  # type: ignore[index]
    assert not torch.equal(*weights), "the percentile was the lower limit"


def test_gradients_are_clipped_at_a_percentile_of_the_norms_before() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    clip = GradientClip(1000.0, 95)
    for norm in (*range(1, REMEMBERED + 1), float("inf")):
        parameter.grad = torch.tensor([float(norm)])
        assert clip([parameter]) == norm
        assert parameter.grad == norm or norm == float("inf")
    parameter.grad = torch.tensor([2000.0])
    assert clip([parameter]) == 2000
    assert float(parameter.grad) == pytest.approx(np.percentile(range(1, REMEMBERED + 1), 95), rel=1e-4)


def test_unknown_words_of_a_schedule_are_refused() -> None:
    with pytest.raises(InvalidInput, match="optimiser is 'adam'"):
        replace(FP32, optimiser="adam")  # type: ignore[arg-type]


def test_two_processes_train_as_one_that_does_both_parts(tmp_path: Path) -> None:
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "WORLD_SIZE": "2"}
    rendezvous["MASTER_PORT"] = str(free_port())
    both = [start("parts", tmp_path / "two", 2, RANK=str(rank), **rendezvous) for rank in range(2)]
    run(LineStage(), replace(FP32, parts=2), tmp_path / "one")
    for process in both:
        process.communicate(timeout=250)
        assert process.returncode == 0
    one, two = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two")
    weights = [
        {k: v for k, v in state["model"].items() if "running" not in k and "num_b" not in k} for state in (one, two)
    ]  # type: ignore[attr-defined]
    assert_equal(*weights, atol=1e-5, rtol=1e-4)
    rows = [np.loadtxt(tmp_path / name / "log.csv", delimiter=",", skiprows=1) for name in ("one", "two")]
    np.testing.assert_allclose(*rows, rtol=1e-3)
    single = run(LineStage(), FP32, tmp_path / "single")
    assert not torch.equal(next(single.parameters()), weights[0]["0.weight"]), "two parts are another batch"


def free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_parts_that_processes_cannot_share_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert (own_device("cuda"), own_device("cuda:0"), own_device("cpu")) == ("cuda:3", "cuda:0", "cpu")
    assert [list(Group(rank, 2, "cpu").share(4)) for rank in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(InvalidInput, match="3 parts"):
        Group(0, 2, "cpu").share(3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_learns_the_line_too(tmp_path: Path, precision: str) -> None:
    run(LineStage(), Schedule(**SCHEDULE, precision=precision), tmp_path)  # type: ignore[arg-type]
    loss = np.loadtxt(tmp_path / "log.csv", delimiter=",", skiprows=1)[:, 1]
    assert loss[-5:].mean() < 0.5 * loss[:5].mean()
    assert bool(checkpoint(tmp_path)["scaler"]) == (precision == "fp16")


def test_a_step_that_overflows_is_left_out_and_the_scale_falls(tmp_path: Path) -> None:
    class Overflowing(LineStage):
        def loss(self, step_rng: np.random.Generator, noise: torch.Generator) -> dict[str, torch.Tensor]:
            terms = dict(super().loss(step_rng, noise))
            return {"loss": terms["loss"] * (float("inf") if self.calls == 2 else 1)}

    run(Overflowing(), Schedule(**SCHEDULE | {"steps": 3}, precision="fp16"), tmp_path)
    state = checkpoint(tmp_path)
    taken = int(state["optimisers"][0]["state"][0]["step"])  # type: ignore[index]
    assert 1 <= taken <= 2
    assert state["scaler"]["scale"] == 2.0 ** (16 - (3 - taken)), "halved for every step left out"  # type: ignore[index]
    assert all(torch.isfinite(v).all() for v in state["model"].values())  # type: ignore[attr-defined]


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run(LineStage(), replace(FP32, steps=2), tmp_path)
    other = LineStage()
    other.model = nn.Linear(2, 2)
    with pytest.raises(InvalidInput, match="another model"):
        run(other, replace(FP32, steps=4), tmp_path)
    with pytest.raises(InvalidInput, match="train that stage first"):
        load_average(tmp_path / "nothing", other.model)


def test_events_are_what_tensorboard_reads(tmp_path: Path) -> None:
    assert checksum(b"123456789") == (((0xE3069283 >> 15) | (0xE3069283 << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    path = tmp_path / "events.out.tfevents.scenegen"
    EventFile(path).append("training", [{"step": 300, "loss": 0.5}])
    data, contents = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        content, check = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])[0]
        assert check == checksum(content) and struct.unpack("<I", data[8:12])[0] == checksum(data[:8])
        contents.append(content)
        data = data[16 + length :]
    assert contents[0].endswith(b"brain.Event:2")
    # step (field 2) 300; summary (5) of one value (1) with tag (1) and simple_value (2)
    assert contents[1][9:] == b"\x10\xac\x02\x2a\x16\x0a\x14\x0a\x0dtraining/loss\x15" + struct.pack("<f", 0.5)


def test_training_from_trellis_freezes_what_the_paper_freezes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    published = SparseStructureFlowModel(**FLOW | {"use_global": False})
    save_model(tmp_path, "ss_flow", published, FLOW | {"use_global": False})
    save_pipeline(tmp_path, {"models": {"sparse_structure_flow_model": "ss_flow"}})
    flow = SparseStructureFlowModel(**FLOW)
    norms = {name: value.clone() for name, value in flow.state_dict().items() if "norm4" in name}
    trained = start_from_trellis(flow, tmp_path)
    state, given = flow.state_dict(), published.state_dict()
    for name, value in given.items():
        torch.testing.assert_close(state[name], value, atol=1e-3, rtol=1e-3)  # stored in half precision
    assert not set(trained) & set(given)
    parts = {name.split(".")[2] if name.startswith("blocks") else name.split(".")[0] for name in trained}
    assert parts == {
        "global_attn",
        "global_cross_attn",
        "adaLN_modulation_global",
        "position_token",
        "register_token",
        "position_head",
    }
    assert norms and all(torch.equal(state[name], value) for name, value in norms.items())
    assert set(state) == set(given) | set(trained) | set(norms)

    again = SparseStructureFlowModel(**FLOW)
    start_from_trellis(again, tmp_path / "ss_flow.safetensors")
    with pytest.raises(InvalidInput, match="does not fit the flow of the config: .*input_layer.weight"):
        start_from_trellis(SparseStructureFlowModel(**FLOW | {"patch_size": 1}), tmp_path)
    assert main(["train", "latents", "--init", str(tmp_path)]) == 2
    assert "stage structure" in capsys.readouterr().err
