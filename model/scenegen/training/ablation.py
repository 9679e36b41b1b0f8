"""Table 2 for a small model: what each kind of condition, and attention over the whole scene, is worth.

Every row is trained from the same start on the same data for the same number of steps, and scored on the same unseen
scenes. Encoders and structure VAE come out of a finished checkpoint and stay as they are, as in the paper; the readout
(where the checkpoint has one) and the flow with its position head are trained anew in each row, so that no row knows
by way of the readout what it is not shown. What is left out of the condition is zero there, in training and in
sampling: the other tokens keep their places. Left-out scene-level attention becomes attention within each asset, of the
same size and number of weights.

Knows the stages of training and the benchmark; nothing about the command line.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from scenegen.evaluation.benchmark import SceneResult, run_benchmark, summary
from scenegen.generator.checkpoints.models import describe
from scenegen.generator.conditioning import Conditioner
from scenegen.generator.pipeline import SceneGen
from scenegen.generator.structure.flow import ConditionCache, SparseStructureFlowModel
from scenegen.generator.structure.readout import ConditionReadout
from scenegen.training.encoders import EncoderPretraining, EncoderStage
from scenegen.training.initial import Checkpoint, start_from_nothing
from scenegen.training.loop import Schedule, run
from scenegen.training.shards import Samples
from scenegen.training.structure import StructureStage
from scenegen.training.structure_vae import StructureVAE

SEED = 0
"""Of every row's initial weights, and of its steps."""


@dataclass(frozen=True)
class Ablation:
    """One row: which blocks of the condition are zero ("geometry", "scene", "mask"), and what attention spans.

    published: the paper's figures of this row (spec/evaluation.md): CD-S, CD-O, F-S, F-O, IoU-B.
    """

    left_out: frozenset[str]
    scene_attention: bool
    published: Mapping[str, float]


def _row(left_out: Sequence[str], figures: Sequence[float], scene_attention: bool = True) -> Ablation:
    names = ("cd_s", "cd_o", "f_s", "f_o", "iou_b")
    return Ablation(frozenset(left_out), scene_attention, dict(zip(names, figures, strict=True)))


ABLATIONS = {
    "nothing": _row((), (0.0118, 0.0138, 90.60, 89.73, 0.5818)),
    "geometric": _row(("geometry",), (0.0183, 0.0266, 83.33, 74.71, 0.4805)),
    "global_visual": _row(("geometry", "scene"), (0.0250, 0.0286, 79.08, 73.46, 0.4253)),
    "mask": _row(("geometry", "scene", "mask"), (0.0310, 0.0290, 75.20, 73.17, 0.3825)),
    "scene_attention": _row(("geometry", "scene", "mask"), (0.0764, 0.0352, 54.21, 70.55, 0.1705), False),
}
"""Table 2: each row leaves out what the rows above it leave out, and what its name says."""


class AblatedConditioner(Conditioner):
    """A conditioner whose condition tokens are zero in the blocks that are left out."""

    def __init__(self, whole: Conditioner, left_out: frozenset[str]) -> None:
        super().__init__(whole.image_encoder, whole.geometry_encoder, ray_token=whole.ray_token)
        self.left_out = left_out

    def forward(
        self, assets: Tensor, masks: Tensor, scenes: Tensor, geometry: Tensor, view_of_asset: Tensor, rays: Tensor
    ) -> Tensor:
        """See Conditioner. Rays are geometry: what leaves that out knows nothing of the camera either."""
        tokens = super().forward(assets, masks, scenes, geometry, view_of_asset, rays)
        block = self.image_encoder.num_tokens
        spans = {
            "mask": slice(block, 2 * block),
            "scene": slice(2 * block, 3 * block),
            "geometry": slice(3 * block, None),
        }
        kept = torch.ones(tokens.shape[1], 1, device=tokens.device, dtype=tokens.dtype)
        for name in self.left_out:
            kept[spans[name]] = 0
        return tokens * kept


class AssetLevelFlow(SparseStructureFlowModel):
    """A flow whose global attention sees one asset only, not all of its scene."""

    def _run_blocks(
        self, special: Tensor | None, h: Tensor, t: Tensor, cache: ConditionCache, branches: int
    ) -> tuple[Tensor | None, Tensor]:
        return super()._run_blocks(special, h, t, replace(cache, scenes=cache.assets), branches)


@dataclass(frozen=True)
class Start:
    """What all rows share. whole: the checkpoint itself. flow_args: arguments of its flow."""

    whole: SceneGen
    flow_args: Mapping[str, Any]
    vae: StructureVAE
    train: Samples
    held_out: Samples
    device: str


def load_start(weights: str | Path, runs: Path, device: str, shards: int | None = None) -> Start:
    """Encoders and VAE of a checkpoint, data of `scenegen train data` in runs.

    InvalidInput when either is missing, or the checkpoint has no structure encoder.
    """
    checkpoint = Checkpoint(weights, device)
    roles = ("sparse_structure_encoder", "sparse_structure_decoder", "sparse_structure_flow_model")
    encoder_args, decoder_args, flow_args = (describe(checkpoint.stem(role))[1] for role in roles)
    vae = StructureVAE(encoder_args, decoder_args)
    checkpoint.structure_vae(vae)
    train, held_out = Samples(runs / "data", limit=shards), Samples(runs / "held_out")
    return Start(SceneGen(checkpoint.parts), flow_args, vae.to(device), train, held_out, device)


def train_row(ablation: Ablation, start: Start, schedule: Schedule, folder: Path) -> SceneGen:
    """Train one row into folder (resumes what is there): the readout, then the flow, by the same schedule."""
    conditioner = AblatedConditioner(start.whole.conditioner, ablation.left_out).requires_grad_(False).eval()
    torch.manual_seed(SEED)
    flow = (SparseStructureFlowModel if ablation.scene_attention else AssetLevelFlow)(**start.flow_args)
    start_from_nothing(flow)
    if isinstance(flow.readout, ConditionReadout):
        layout = {"patch": flow.patch_size, "resolution": flow.resolution}
        teaching = EncoderPretraining(conditioner, flow.readout)
        stage = EncoderStage(teaching, start.vae, start.train, start.held_out, **layout)
        taught = run(stage, schedule, folder / "readout", seed=SEED, device=start.device)
        assert isinstance(taught, EncoderPretraining)
        flow.readout.load_state_dict(taught.readout.state_dict())
        flow.readout.requires_grad_(False)
    structure = StructureStage(flow, conditioner.to(start.device), start.vae, start.train, start.held_out)
    trained = run(structure, schedule, folder / "structure", seed=SEED, device=start.device)
    assert isinstance(trained, SparseStructureFlowModel)
    row = copy.copy(start.whole)
    row.conditioner, row.flow, row.latents = conditioner, trained, None
    return row


def score_row(model: SceneGen, *, seed: int, scenes: int, progress: tqdm[Any]) -> dict[str, float]:
    """Mean figures of a trained row on unseen scenes, and how many of them came out ("scenes") or did not ("errors").

    progress advances with each scene.
    """

    def advance(result: SceneResult) -> None:
        progress.update()

    results = run_benchmark(model, seed=seed, scenes=scenes, with_baselines=False, on_scene=advance)
    failed = sum(bool(result.error) for result in results)
    return {"scenes": scenes - failed, "errors": failed, **summary(results).get("model", {})}


def out_of_order(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Where a row is better than the one above it though the paper's is not, one line each; rows in Table 2's order."""
    names = [name for name in ABLATIONS if name in rows]
    troubles = []
    for above, below in zip(names, names[1:], strict=False):
        for figure, published in ABLATIONS[below].published.items():
            ours = rows[below].get(figure, float("nan")) - rows[above].get(figure, float("nan"))
            paper = published - ABLATIONS[above].published[figure]
            if ours * paper < 0:
                troubles.append(f"{figure}: without {below} {ours:+.4f} on the row above, in the paper {paper:+.4f}")
    return troubles
