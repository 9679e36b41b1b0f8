"""Stage 3: the sparse-structure flow and the position head, on top of frozen encoders (spec/structure.md section 8).

Time steps lean towards 1: with the usual middle-heavy ones a small flow learns to denoise and ignores the image
(spec/small_model.md). The conditional error at t = 1, beside the same with conditions of other assets, shows it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from scenegen.generator.conditioning import Conditioner
from scenegen.generator.sampling import predict_clean
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.generator.structure.readout import compose_placements
from scenegen.training.encoders import condition_batch, encode_all
from scenegen.training.losses import collision_loss, occupancy_loss, placement_errors, placement_loss, voxel_iou
from scenegen.training.shards import Samples
from scenegen.training.structure_vae import StructureVAE

OBJECTS_PER_STEP = 32
SIGMA = 1e-5
UNCONDITIONAL = 0.1
PLACEMENT_WEIGHT = 0.15
COLLISION_WEIGHT = 0.1
NOISELESS = 0.8
"""Share of scenes that are shown at time 1 and without noise: of what one step from there gives, the one that is most
likely to be near the truth, which a sampler with `steps` 1 and `temperature` 0 asks for. Never without noise before
time 1: there x would be the truth itself, and a flow copies it whatever the condition says."""
DECODED_WEIGHT = 1.0
"""Weight of how the shapes differ that the clean latents of noiseless scenes decode to."""
COLLISION_POINTS = 128


def draw_times(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Flow times [count]: a tenth at 1, 55% in [0.85, 1], the rest logit-normal."""
    times = 1 / (1 + np.exp(-rng.standard_normal(count)))
    kind = rng.random(count)
    times = np.where(kind < 0.65, rng.uniform(0.85, 1, count), times)
    return np.where(kind < 0.1, 1, times).astype(np.float32)


def draw_noiseless(rng: np.random.Generator, scenes: int) -> NDArray[np.bool_]:
    """Which scenes [S] are shown at time 1 and without noise; at least one is."""
    noiseless = rng.random(scenes) < NOISELESS
    noiseless[rng.integers(scenes)] = True
    return noiseless


class StructureStage:
    """Flow matching on structure latents, placement and collision losses; conditions from the frozen conditioner."""

    def __init__(
        self,
        model: SparseStructureFlowModel,
        conditioner: Conditioner,
        vae: StructureVAE,
        train: Samples | None,
        held_out: Samples,
    ) -> None:
        """train: None when `see` will say before the first step."""
        self.model = model
        self.conditioner = conditioner.requires_grad_(False).eval()
        self.vae = vae.requires_grad_(False).eval()
        self.held_out, self.held_out_latents = held_out, encode_all(self.vae, held_out)
        if train is not None:
            self.see(train, encode_all(self.vae, train))

    def see(self, train: Samples, latents: Tensor) -> None:
        """Learn from these samples from now on. latents: theirs, as encode_all."""
        self.train, self.latents = train, latents
        self.groups = train.by_count()
        sizes = np.array([n * len(members) for n, members in self.groups.items()], dtype=np.float64)
        self.chances = sizes / sizes.sum()

    @torch.no_grad()
    def batch(
        self, samples: Samples, scenes: NDArray[np.int64], rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Condition tokens, latents, placements [N, 8] and occupancy of scenes of equal count.

        With ``rng`` half of all batches of synthetic scenes are mirrored, and exposure varies.
        """
        device = next(self.model.parameters()).device
        rows = samples.rows(scenes)
        mirror = rng is not None and samples.procedural and rng.random() < 0.5
        targets = samples.targets(rows, mirror)
        position, size, yaw = (torch.from_numpy(targets[k]).to(device) for k in ("position", "log_size", "yaw"))
        grids = torch.from_numpy(samples.occupancy(rows)).to(device)
        latents = (self.held_out_latents if samples is self.held_out else self.latents)[rows].to(device)
        cond = self.conditioner(*condition_batch(samples, scenes, rng, device, mirror))
        return cond.float(), latents, compose_placements(position, size, yaw, len(scenes)), grids

    def loss(self, step_rng: np.random.Generator, noise: torch.Generator) -> Mapping[str, Tensor]:
        """Terms of one step on scenes of one random count."""
        count = list(self.groups)[step_rng.choice(len(self.chances), p=self.chances)]
        wanted = min(max(1, OBJECTS_PER_STEP // count), len(self.groups[count]))
        chosen = step_rng.choice(self.groups[count], wanted, replace=False)
        cond, latents, placements, grids = self.batch(self.train, chosen, step_rng)
        noiseless = torch.from_numpy(draw_noiseless(step_rng, len(chosen)).repeat(count)).to(cond.device)
        dropped = torch.from_numpy(step_rng.random(len(cond)) < UNCONDITIONAL).to(cond.device) & ~noiseless
        cond = cond * ~dropped[:, None, None]
        t = torch.from_numpy(draw_times(step_rng, len(cond))).to(cond.device)
        t = torch.where(noiseless, 1.0, t)
        eps = torch.randn(latents.shape, generator=noise).to(cond.device)
        eps = eps * ~noiseless[:, None, None, None, None]
        time = t[:, None, None, None, None]
        x = (1 - time) * latents + (SIGMA + (1 - SIGMA) * time) * eps
        velocity, predicted = self.model(x, 1000 * t, cond, scenes=len(chosen))
        flow = F.mse_loss(velocity.float(), (1 - SIGMA) * eps - latents)
        clean = predict_clean(x, velocity.float(), time, SIGMA)
        shape = occupancy_loss(self.vae.decoder(clean[noiseless]), grids[noiseless])
        place = placement_loss(predicted, placements, len(chosen))
        collision = collision_loss(predicted.float(), grids, len(chosen), COLLISION_POINTS, noise)
        return {
            "loss": flow + PLACEMENT_WEIGHT * place + COLLISION_WEIGHT * collision + DECODED_WEIGHT * sum(shape),
            "flow": flow,
            "entropy": shape[0],
            "dice": shape[1],
            "placement": place,
            "collision": collision,
        }

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Held-out: velocity error at t = 1, the same with shuffled conditions, IoU of the one-step shapes from pure

        noise and from none, and placement errors of the latter (translation in query sizes, scale ratio, degrees).
        """
        device = next(self.model.parameters()).device
        noise = torch.Generator().manual_seed(0)
        results: dict[str, list[Tensor]] = {}

        def note(name: str, values: Tensor) -> None:
            results.setdefault(name, []).append(values.float())

        for count, members in self.held_out.by_count().items():
            scenes = members[: 64 // count]
            with torch.autocast(device.type, torch.bfloat16):
                cond, latents, placements, grids = self.batch(self.held_out, scenes, None)
                eps = torch.randn(latents.shape, generator=noise).to(device)
                ones = torch.full((len(cond),), 1000.0, device=device)
                mean, placed = model(torch.zeros_like(eps), ones, cond, scenes=len(scenes))
                v, _ = model(eps, ones, cond, scenes=len(scenes))
                shuffled, _ = model(eps, ones, cond.roll(1, 0), scenes=len(scenes))
            target = eps - latents
            note("error_at_1", ((v.float() - target) ** 2).flatten(1).mean(1))
            note("error_at_1_shuffled", ((shuffled.float() - target) ** 2).flatten(1).mean(1))
            note("mean_iou", voxel_iou(self.vae.decoder(-mean.float()), grids))
            note("one_step_iou", voxel_iou(self.vae.decoder((eps - v).float()), grids))
            if count > 1:
                others = torch.arange(len(cond), device=device) % count > 0
                for name, errors in placement_errors(placed[others], placements[others]).items():
                    note(name, errors)
        merged = {k: torch.cat(v) for k, v in results.items()}
        means = {k: float(v.mean()) for k, v in merged.items() if "error" in k or "iou" in k}
        return means | {k: float(v.median()) for k, v in merged.items() if k not in means}
