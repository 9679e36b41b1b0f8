"""Scenes without end: the step alone says what a stage sees, whoever draws it, and no process is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_checkpoint import FLOW, GEOMETRY_ENCODER, IMAGE_ENCODER, READOUT
from serving import WAIT_S, wait_until
from test_training_loop import assert_equal, checkpoint

from scenegen.cli import main
from scenegen.generator.conditioning import Conditioner
from scenegen.generator.encoders.dinov2 import ImageEncoder
from scenegen.generator.encoders.vggt import VGGTAggregator
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.generator.structure.readout import ConditionReadout
from scenegen.generator.workers import WorkerDied
from scenegen.scene import InvalidInput
from scenegen.synthetic import FAMILIES, make_scene
from scenegen.training import shards, stages
from scenegen.training.encoders import EncoderPretraining, EncoderStage, encode_all
from scenegen.training.initial import start_from_nothing
from scenegen.training.loop import Schedule, SteppedStage, run
from scenegen.training.shards import Samples, draw_shard, make_shards, shard_seeds
from scenegen.training.stream import Stream, StreamedStage
from scenegen.training.structure import StructureStage
from scenegen.training.structure_vae import StructureVAE

SCENES = 3
SIZES = {"image_size": 28, "geometry_size": 42, "resolution": 16}
DATA = {"first_seed": 50, "window": 3, "fresh_every": 2}
VAE = {"latent_channels": 4, "num_res_blocks": 0, "num_res_blocks_middle": 1}
ENCODER, DECODER = {"in_channels": 1, "channels": [4, 8, 16]}, {"out_channels": 1, "channels": [16, 8, 4]}
SCHEDULE = Schedule(steps=8, learning_rate=1e-3, warmup=2, validate_every=8, save_every=3, precision="fp32")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """Few scenes in a shard."""
    monkeypatch.setattr(shards, "SCENES_PER_SHARD", SCENES)


@pytest.fixture(scope="module")
def held_out() -> Samples:
    return Samples.of_shard(7, draw_shard(range(7, 11), SIZES))


def encoders(held_out: Samples) -> EncoderStage:
    torch.manual_seed(0)
    conditioner = Conditioner(ImageEncoder(IMAGE_ENCODER), VGGTAggregator(**GEOMETRY_ENCODER))
    model = EncoderPretraining(conditioner, ConditionReadout(**READOUT))
    return EncoderStage(model, StructureVAE(VAE | ENCODER, VAE | DECODER), None, held_out, patch=2, resolution=4)


def structure(held_out: Samples) -> StructureStage:
    torch.manual_seed(0)
    conditioner = Conditioner(ImageEncoder(IMAGE_ENCODER), VGGTAggregator(**GEOMETRY_ENCODER))
    flow = SparseStructureFlowModel(**FLOW)
    start_from_nothing(flow)
    return StructureStage(flow, conditioner, StructureVAE(VAE | ENCODER, VAE | DECODER), None, held_out)


def children(pid: int) -> set[int]:
    """Processes that a process started and that are there."""
    return {int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()}


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("of", [encoders, structure])
def test_a_run_cut_short_ends_as_one_that_was_not_whoever_draws(
    of: Callable[[Samples], EncoderStage | StructureStage], held_out: Samples, tmp_path: Path
) -> None:
    before = children(os.getpid())

    def train(name: str, workers: int, fail_at: int | None = None) -> None:
        with Stream(tmp_path / "data", DATA, SIZES, workers) as stream:
            stage = StreamedStage(of(held_out), stream)
            assert isinstance(stage, SteppedStage)
            begin = stage.begin

            def fail(step: int, part: int) -> None:
                begin(step, part)
                if step == fail_at:
                    raise KeyboardInterrupt

            stage.begin = fail  # type: ignore[method-assign]
            run(stage, SCHEDULE, tmp_path / name)

    train("whole", 1)
    with pytest.raises(KeyboardInterrupt):
        train("cut", 2, fail_at=5)
    for number in (2, 5):  # some of what is needed comes to be on disk
        seeds = shard_seeds(DATA["first_seed"], number)
        (tmp_path / "data").mkdir(exist_ok=True)
        shards._make_shard((tmp_path / "data", seeds.start, *SIZES.values()))
    train("cut", 2)
    assert_equal(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "cut"))
    for name in ("log.csv", "validation.csv"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "cut" / name).read_text()
    assert children(os.getpid()) == before, "no process outlives the training, nor an interrupted one"


def test_the_window_is_what_the_step_says_and_only_new_shards_are_encoded(
    held_out: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, encoded = encoders(held_out), []

    def noted(vae: StructureVAE, samples: Samples) -> torch.Tensor:
        encoded.append(samples._shards)
        return encode_all(vae, samples)

    monkeypatch.setattr("scenegen.training.stream.encode_all", noted)
    with Stream(tmp_path / "none", DATA, SIZES, 2) as stream:
        streamed = StreamedStage(stage, stream)
        for step in range(5):
            streamed.begin(step, 0)
            seen = stage.train.objects["crop"]
            streamed.begin(step, 1)
            assert stage.train.objects["crop"] is seen, "nothing is copied while the window stands"
            assert len(stream._coming) <= stream.ahead
    assert [shard for (shard,) in encoded] == [(50 + SCENES * n, SCENES) for n in range(5)]
    for number in (2, 3, 4):
        shards._make_shard((tmp_path, 50 + SCENES * number, *SIZES.values()))
    there = Samples(tmp_path)
    for mine, on_disk in ((stage.train.scene, there.scene), (stage.train.objects, there.objects)):
        assert mine.keys() == on_disk.keys()
        for name, array in on_disk.items():
            assert mine[name].dtype == array.dtype
            np.testing.assert_array_equal(mine[name], array)
    np.testing.assert_array_equal(stage.train.rows([0, 8]), there.rows([0, 8]))
    torch.testing.assert_close(stage.latents, encode_all(stage.vae, there))
    row = int(there.first[5])
    assert stage.train.made(row).family == there.made(row).family == FAMILIES[there.objects["family"][row]]


def test_what_goes_wrong_in_a_process_is_an_error_here(tmp_path: Path) -> None:
    with Stream(tmp_path, DATA, {"resolution": 16}, 1) as stream:
        stream.order(range(2))
        with pytest.raises(TypeError, match="image_size"):
            stream.take(0)
    before = children(os.getpid())
    with Stream(tmp_path, DATA, SIZES, 1) as stream:
        stream.order(range(1))
        wait_until(lambda: bool(stream._workers._busy))
        (worker,) = children(os.getpid()) - before
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(WorkerDied, match="draw_shard"):
            stream.take(0)
    assert children(os.getpid()) == before


def test_idle_and_busy_processes_end_with_the_stream_and_not_when_it_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children(os.getpid())
    with Stream(tmp_path, DATA, SIZES, 2) as stream:
        stream.order(range(2))
        for number in range(2):
            stream.take(number)
        assert len(children(os.getpid()) - before) == 2
        monkeypatch.setattr(shards, "SCENES_PER_SHARD", 10_000)  # longer than anybody waits
        stream.order(range(2, 3))
        wait_until(lambda: bool(stream._workers._busy))
    assert children(os.getpid()) == before


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_a_training_that_is_ended(tmp_path: Path, how: signal.Signals) -> None:
    program = (
        "from pathlib import Path\n"
        "from scenegen.training import shards\n"
        "from scenegen.training.stream import Stream\n"
        f"with Stream(Path('none'), {DATA}, {SIZES}, 2) as stream:\n"
        "    shards.SCENES_PER_SHARD = 1\n"
        "    stream.order(range(2))\n"
        "    stream.take(0), stream.take(1)\n"
        "    shards.SCENES_PER_SHARD = 10_000\n"  # longer than anybody waits
        "    stream.order(range(2, 9))\n"
        "    print('drawing', flush=True)\n"
        "    stream.take(2)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(shards.__file__).parents[2])}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        workers = children(owner.pid)
        assert len(workers) == 2
        owner.send_signal(how)
        owner.wait(WAIT_S)
    wait_until(lambda: not any(alive(worker) for worker in workers))


def test_what_a_stream_cannot_be_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidInput, match="needs window and fresh_every of at least 1"):
        Stream(tmp_path, {"first_seed": 5, "window": 0}, SIZES, 1)
    with pytest.raises(InvalidInput, match="needs --workers of at least 1"):
        Stream(tmp_path, DATA, SIZES, 0)
    (tmp_path / "given_00000000.safetensors").touch()
    with pytest.raises(InvalidInput, match="scenes from files"):
        Stream(tmp_path, DATA, SIZES, 1)
    full = str(Path(shards.__file__).with_name("configs") / "full.json")
    others = [["latents"], ["data"], ["structure-vae"]]
    for words in (*others, ["encoders", "--shards", "3"], ["structure", "--config", full]):
        assert main(["train", *words, "--stream", "--runs", str(tmp_path)]) == 2
        assert "--stream draws synthetic scenes without end for encoders and structure" in capsys.readouterr().err


def test_the_command_needs_no_data_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny: dict[str, Any] = json.loads((Path(shards.__file__).with_name("configs") / "tiny.json").read_text())
    assert tiny["data"]["window"] > 1 and tiny["data"]["fresh_every"] > 1
    config = {
        "data": DATA | {"held_out_scenes": 2, "held_out_seed": 7},
        "resolution": 16,
        "structure_encoder": VAE | ENCODER,
        "structure_decoder": VAE | DECODER,
        "image_encoder": IMAGE_ENCODER,
        "geometry_encoder": GEOMETRY_ENCODER,
        "flow": FLOW | {"readout": READOUT},
        "encoders": {"steps": 3, "learning_rate": 1e-3, "warmup": 1, "validate_every": 3},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    made: list[tuple[Path, int]] = []

    def noted(folder: Path, scenes: int, **more: int) -> None:
        made.append((folder, scenes))
        make_shards(folder, scenes, **more)

    monkeypatch.setattr(stages, "make_shards", noted)
    monkeypatch.setattr(stages, "standard_vae", lambda *_: StructureVAE(VAE | ENCODER, VAE | DECODER))
    words = ["--config", str(tmp_path / "config.json"), "--runs", str(tmp_path / "runs"), "--workers", "1"]
    assert main(["train", "encoders", "--stream", *words]) == 0
    assert made == [(tmp_path / "runs/held_out", 2)]
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"held_out", "encoders"}
    rows = np.genfromtxt(tmp_path / "runs/encoders/log.csv", delimiter=",", names=True)
    assert len(rows) == 3 and np.isfinite(rows["loss"]).all()


def test_families_are_drawn_equally_often() -> None:
    counts = Counter(made.family for seed in range(1_000_000, 1_001_000) for made in make_scene(seed).objects)
    expected = sum(counts.values()) / len(FAMILIES)
    assert set(counts) == set(FAMILIES) and expected > 150
    # 5 deviations of a count when all are equally likely
    assert max(abs(count - expected) for count in counts.values()) < 5 * np.sqrt(expected)
