"""The structure flow trained as released, at any size, on prepared 3D-FUTURE scenes (spec/structure.md section 8).

A part of a step is one scene; all parts of a step have equally many assets. Image encoder and structure decoder are
finished and frozen, geometry tokens are read from disk. Small models are trained by structure.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scenegen.generator.checkpoints import (
    find_encoder,
    find_model,
    load_pipeline,
    open_image_encoder,
    open_model,
    save_model,
)
from scenegen.generator.conditioning import condition_tokens, image_tensor
from scenegen.generator.devices import require_device
from scenegen.generator.encoders.dinov2 import ImageEncoder
from scenegen.generator.loading import place_in_pipeline
from scenegen.generator.nn.precision import half_for
from scenegen.generator.sampling import SIGMA_MIN
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.generator.structure.vae import SparseStructureDecoder
from scenegen.scene import InvalidInput
from scenegen.training.distributed import own_device
from scenegen.training.future3d_rows import MOST_TOGETHER, Instance, PreparedScenes
from scenegen.training.initial import start_from_nothing, start_from_trellis
from scenegen.training.loop import Schedule, load_average, run
from scenegen.training.losses import placement_errors
from scenegen.training.released import LossTerms, PlacementWeight, ReleasedLoss
from scenegen.training.released_order import GroupOrder, is_held_out
from scenegen.weights import find_weights

Config = Mapping[str, Any]

UNCONDITIONAL = 0.1
"""Chance of an asset's whole condition to be zero."""
TIME_MEAN, TIME_SPREAD = 1.0, 1.0
"""Of the normal numbers whose sigmoids are the flow times."""
MOST_VALIDATED = 64
"""Held-out scenes that a validation looks at: other processes wait for it."""
LATE = 0.05
"""Flow time at which placements are judged: a sampler takes those of its last step."""


def draw_times(count: int, noise: torch.Generator) -> Tensor:
    """Flow times [count], logit-normal, each on its own."""
    return torch.sigmoid(TIME_MEAN + TIME_SPREAD * torch.randn(count, generator=noise))


class FlowInTraining(nn.Module):
    """All that a checkpoint of the training holds: the flow, and the moving average that weights its losses."""

    def __init__(self, flow: SparseStructureFlowModel) -> None:
        super().__init__()
        self.flow = flow
        self.weight = PlacementWeight()


class ReleasedStage:
    """The released losses on one scene a part.

    image_encoder, decoder: finished; frozen here. held_out: share of the scenes that are validated on only. parts: of
    a step. Raises InvalidInput when models, scenes and one another do not fit, or a share has no scene.
    """

    def __init__(
        self,
        flow: SparseStructureFlowModel,
        image_encoder: ImageEncoder,
        decoder: SparseStructureDecoder,
        scenes: PreparedScenes,
        *,
        held_out: float,
        parts: int,
    ) -> None:
        self.model = FlowInTraining(flow)
        self.image_encoder = image_encoder.requires_grad_(False).eval()
        self.criterion = ReleasedLoss(decoder.requires_grad_(False).eval(), self.model.weight)
        self.scenes = scenes
        _require_fit(flow, image_encoder, decoder, scenes.instance(0, np.random.default_rng(0)))
        apart = [is_held_out(scene["scene_id"], held_out) for scene in scenes.scenes]
        if all(apart) or not any(apart):
            raise InvalidInput(
                f"{sum(apart)} of {len(apart)} scenes are held out: change held_out {held_out} of the config, or "
                "prepare more"
            )
        counts = {
            number: min(len(scenes.scenes[scene]["assets"]), MOST_TOGETHER)
            for number, (scene, _) in enumerate(scenes.instances)
            if not apart[scene]
        }
        self.order = GroupOrder(counts, parts)
        self.validated = _seen_from_the_largest(scenes, apart)[:MOST_VALIDATED]
        self.number = 0

    def begin(self, step: int, part: int) -> None:
        """Take the instance of that part of that step."""
        self.number = self.order.group(step)[part]

    def loss(self, step_rng: np.random.Generator, noise: torch.Generator) -> Mapping[str, Tensor]:
        """Terms of the instance that `begin` took."""
        cond, latents, placements = self._tensors(self.scenes.instance(self.number, step_rng))
        kept = torch.from_numpy(step_rng.random(len(cond)) >= UNCONDITIONAL).to(cond.device)
        return _named(self._terms(self.model.flow, cond * kept[:, None, None], latents, placements, noise))

    def end(self, terms: Mapping[str, float]) -> None:
        """Move the weight of the placement terms on."""
        if terms["balance"]:  # scenes of one asset have none
            self.model.weight.note(terms["balance"])

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Held-out scenes seen from their largest asset: loss terms, velocity error at t = 1, the same with conditions

        of other assets of the scene, and placement errors at low noise (medians: query sizes, degrees, log of ratio).
        """
        assert isinstance(model, FlowInTraining)
        noise = torch.Generator().manual_seed(0)
        means: dict[str, list[Tensor]] = {}
        medians: dict[str, list[Tensor]] = {}
        for number in self.validated:
            instance = self.scenes.instance(number, np.random.default_rng(number))
            with torch.autocast(self._device.type, torch.bfloat16):
                cond, latents, placements = self._tensors(instance)
                terms = _named(self._terms(model.flow, cond, latents, placements, noise))
                eps = torch.randn(latents.shape, generator=noise).to(self._device)
                times = torch.full((len(cond),), 1000.0, device=self._device)
                velocities = {"error_at_1": model.flow(eps, times, cond)[0]}
                if len(cond) > 1:
                    velocities["error_at_1_shuffled"] = model.flow(eps, times, cond.roll(1, 0))[0]
                _, placed = model.flow((1 - LATE) * latents + LATE * eps, LATE * times, cond)
            target = (1 - SIGMA_MIN) * eps - latents
            errors = {name: (v.float() - target).square().mean() for name, v in velocities.items()}
            names = ("flow", "placement", "collision_ratio") if len(cond) > 1 else ("flow",)
            for name, value in (errors | {name: terms[name] for name in names}).items():
                means.setdefault(name, []).append(value)
            for name, values in placement_errors(placed[1:], placements[1:]).items():
                medians.setdefault(name, []).append(values)
        return {name: float(torch.stack(values).mean()) for name, values in means.items()} | {
            name: float(torch.cat(values).median()) for name, values in medians.items()
        }

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.no_grad()
    def _tensors(self, instance: Instance) -> tuple[Tensor, Tensor, Tensor]:
        """Condition tokens [N, T, C], latents [N, c, R, R, R] and placements [N, 8], on the device."""
        device = self._device
        assets = torch.from_numpy(instance.assets).movedim(-1, -3)
        images = torch.cat([assets, image_tensor(instance.masks), image_tensor(instance.scene[None])]).to(device)
        count = len(assets)
        crops, masks, scene = self.image_encoder(images).float().split([count, count, 1])
        view = torch.zeros(count, dtype=torch.long, device=device)
        cond = condition_tokens(crops, masks, scene, instance.geometry[None].to(device).float(), view)
        return cond, instance.latents.to(device), torch.from_numpy(instance.placements).to(device)

    def _terms(
        self, flow: nn.Module, cond: Tensor, latents: Tensor, placements: Tensor, noise: torch.Generator
    ) -> LossTerms:
        """Loss terms of one scene at times and with noise that are drawn here."""
        t = draw_times(len(latents), noise).to(latents.device)
        eps = torch.randn(latents.shape, generator=noise).to(latents.device)
        time = t[:, None, None, None, None]
        x = (1 - time) * latents + (SIGMA_MIN + (1 - SIGMA_MIN) * time) * eps
        velocity, predicted = flow(x, 1000 * t, cond)
        return self.criterion(velocity, predicted, latents, placements, eps, t)


def _named(terms: LossTerms) -> dict[str, Tensor]:
    return dict(vars(terms))


def _seen_from_the_largest(scenes: PreparedScenes, apart: list[bool]) -> list[int]:
    """Of each scene that is held out the instance whose query has the most pixels, as in inference."""
    largest: dict[int, int] = {}
    for number, (scene, query) in enumerate(scenes.instances):
        assets = scenes.scenes[scene]["assets"]
        if apart[scene] and query == max(range(len(assets)), key=lambda i: assets[i]["pixels"]):
            largest[scene] = number
    return list(largest.values())


def _require_fit(
    flow: SparseStructureFlowModel, image_encoder: ImageEncoder, decoder: SparseStructureDecoder, instance: Instance
) -> None:
    """Raise InvalidInput when models and prepared data were not made for each other."""
    width, channels = image_encoder.config.hidden_size, flow.input_layer.in_features // flow.patch_size**3
    pairs = {
        "tokens of an asset image (image encoder, flow's local_tokens)": (image_encoder.num_tokens, flow.local_tokens),
        "condition channels (image encoder, flow)": (width, flow.out_layer.in_features),
        "channels of geometry tokens (prepared, twice the image encoder's)": (instance.geometry.shape[-1], 2 * width),
        "latents (prepared, flow)": (list(instance.latents.shape[1:]), [channels, *[flow.resolution] * 3]),
        "latent channels (flow, decoder)": (channels, decoder.input_layer.in_channels),
    }
    for what, (left, right) in pairs.items():
        if left != right:
            raise InvalidInput(f"{what} are {left} and {right}: these were not made for each other")


def flow_of(config: Config) -> SparseStructureFlowModel:
    """The flow of a config, in float32 whatever it is stored in: small steps are lost on half-precision weights.

    InvalidInput for one that this training can't train.
    """
    args = config["flow"]
    if args.get("readout") is not None or not args.get("use_global"):
        raise InvalidInput("a flow trained as released has use_global and no readout: change the flow of the config")
    return SparseStructureFlowModel(**args | {"use_fp16": False})


def train(
    config: Config,
    schedule: Schedule,
    runs: Path,
    *,
    data: Path,
    weights: str,
    init: Path | None = None,
    device: str = "cpu",
) -> None:
    """Train the flow of a config on a prepared folder into ``runs``/structure; resumes what is there.

    weights: checkpoint whose image encoder and structure decoder are used. init: TRELLIS's flow to start from, see
    start_from_trellis; None trains everything from nothing. InvalidInput when something is missing or does not fit.
    """
    device = own_device(device)
    require_device(device)
    folder = find_weights(weights)
    pipeline = load_pipeline(folder)
    encoder_name, decoder_name = (
        place_in_pipeline(folder, pipeline, role) for role in ("image_cond_model", "sparse_structure_decoder")
    )
    half = half_for(device, fast=False)
    image_encoder = open_image_encoder(find_encoder(folder, encoder_name)).load(device)
    decoder = open_model(find_model(folder, decoder_name), SparseStructureDecoder, half=half).load(device)
    flow = flow_of(config)
    if init is None:
        start_from_nothing(flow)
    else:
        start_from_trellis(flow, init)
    scenes = PreparedScenes(data, image_encoder.image_size)
    stage = ReleasedStage(
        flow, image_encoder, decoder, scenes, held_out=config["prepared"]["held_out"], parts=schedule.parts
    )
    run(stage, schedule, runs / "structure", device=device)


def export(config: Config, runs: Path, folder: Path) -> None:
    """Write the averaged flow of a training as `ss_flow.json` and `ss_flow.safetensors`, fp16."""
    trained = load_average(runs / "structure", FlowInTraining(flow_of(config)))
    assert isinstance(trained, FlowInTraining)
    save_model(folder, "ss_flow", trained.flow, config["flow"])
