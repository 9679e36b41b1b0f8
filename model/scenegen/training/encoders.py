"""Stage 2: the small encoders and the readout, taught directly what an object is and where it stands.

At full size DINOv2 and VGGT come pre-trained; small ones learn nothing in hours when the flow alone teaches them
(spec/small_model.md). The image encoder is taught shape, yaw, family and extents from asset images and the box from
mask images; the geometry encoder depth and camera; the readout all that placements are composed of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from scenegen.generator.conditioning import Conditioner, image_tensor
from scenegen.generator.rays import Rays, mirrored_rays
from scenegen.generator.structure.flow import patchify, unpatchify
from scenegen.generator.structure.readout import ConditionReadout, compose_placements, yaw_from_logits, yaw_targets
from scenegen.synthetic.objects import FAMILIES
from scenegen.training.losses import occupancy_loss, voxel_iou
from scenegen.training.shards import Samples, write_arrays
from scenegen.training.structure_vae import StructureVAE

LATENTS = "latents_"
"""How the names of files begin that keep structure latents beside shards."""
OBJECTS_PER_STEP = 64
SCENES_PER_STEP = 1
"""Whole scenes, beside so many single objects, in each part of a step."""
FAMILY_WEIGHTS = {"table": 2.0, "shelf": 2.0, "chair": 1.75, "crate": 1.5}
FAMILY_WEIGHTS |= dict.fromkeys(("ball", "can", "cone", "bottle"), 0.5)
"""How often objects of a family are drawn, where not as often as others: about as 1 - IoU of what was learnt of it."""
UNKNOWN_CAMERA = 0.2
"""Share of scenes and single objects of which no rays are known."""
PITCH_ERROR, FOCAL_ERROR = 0.005, 0.005
"""Deviations, in radians and as a ratio: hand-eye calibrations are that good."""
DECODED_PER_STEP = 16
"""Objects of a step whose regressed latents are decoded too: what a small error of a latent does to a thin part, only
the shape tells."""
WEIGHTS = {"latent": 1.0, "entropy": 0.5, "dice": 1.0, "yaw": 0.3, "family": 0.3, "extents": 1.0}
WEIGHTS |= {"position": 3.0, "size": 1.0, "box": 2.0, "depth": 1.0, "camera": 2.0}
POSITION_UNIT = 3.0
"""Object sizes that count as much as a camera height in the position of an object whose rays are known."""


class EncoderPretraining(nn.Module):
    """Conditioner and readout (kept), and the heads that only teach (dropped)."""

    def __init__(self, conditioner: Conditioner, readout: ConditionReadout) -> None:
        super().__init__()
        self.conditioner, self.readout = conditioner, readout
        channels = readout.to_yaw.in_features
        self.family = nn.Linear(channels, len(FAMILIES))
        self.extents = nn.Linear(channels, 3)
        self.box = nn.Linear(channels, 4)
        self.depth = nn.Linear(2 * channels, 1)
        self.camera = nn.Linear(2 * channels, 2)


def condition_batch(
    samples: Samples,
    scenes: NDArray[np.int64],
    rng: np.random.Generator | None,
    device: torch.device,
    mirror: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The Conditioner's arguments for the given scenes, or for their mirror images.

    With ``rng``, exposure and tint vary per scene, and so does what is known of the camera.
    """
    rows = samples.rows(scenes)
    rays = samples.objects["rays"][rows]
    rays = mirrored_rays(rays) if mirror else rays
    if rng is not None:
        rays = varied_rays(rays, rng, samples.counts[scenes])
    view = torch.from_numpy(np.repeat(np.arange(len(scenes)), samples.counts[scenes])).to(device)
    assets = image_tensor(samples.objects["crop"][rows]).to(device)  # type: ignore[arg-type]
    masks = image_tensor(samples.objects["mask"][rows]).to(device).expand(-1, 3, -1, -1)  # type: ignore[arg-type]
    whole = image_tensor(samples.scene["scene"][scenes]).to(device)  # type: ignore[arg-type]
    geometry = image_tensor(samples.scene["geometry"][scenes]).to(device)  # type: ignore[arg-type]
    if rng is not None:
        gain = _gains(rng, len(scenes)).to(device)
        # the white border of the letterbox stays what it is at inference: white
        geometry = torch.where(geometry == 1, geometry, (geometry * gain).clamp(max=1))
        whole, assets = (whole * gain).clamp(max=1), (assets * gain[view]).clamp(max=1)
    if mirror:
        assets, masks, whole, geometry = (images.flip(-1) for images in (assets, masks, whole, geometry))
    return assets, masks, whole, geometry[:, None], view, torch.from_numpy(rays).to(device)


def varied_rays(rays: NDArray[Any], rng: np.random.Generator, counts: NDArray[np.int64]) -> Rays:
    """Rays [N, 1 + ANGLES] of scenes with so many objects each, as a robot knows them: a little off, or not at all.

    Pitch (elevations) and focal length (azimuths) are off by the same for all objects of a scene.
    """
    scenes = np.repeat(np.arange(len(counts)), counts)
    pitch, focal = rng.normal(0, PITCH_ERROR, len(counts))[scenes], rng.normal(1, FOCAL_ERROR, len(counts))[scenes]
    known = (rng.random(len(counts)) >= UNKNOWN_CAMERA)[scenes]
    varied = rays.astype(np.float64)
    varied[:, [1, 3, 4]] *= focal[:, None]
    varied[:, [2, 5, 6]] += pitch[:, None]
    return (varied * (known & (rays[:, 0] > 0))[:, None]).astype(np.float32)


def _gains(rng: np.random.Generator, count: int) -> Tensor:
    """Exposure and tint: factors float32 [count, 3, 1, 1]."""
    gains = rng.uniform(0.75, 1.3, (count, 1, 1, 1)) * rng.uniform(0.92, 1.08, (count, 3, 1, 1))
    return torch.from_numpy(gains.astype(np.float32))


@torch.no_grad()
def initialise_encoders(conditioner: Conditioner) -> None:
    """Where encoders without published weights start.

    The libraries' own initialisation is for much longer training: positions so faint beside what black patches give
    that attention sees a bag of patches. Here positions are strong and a black patch of the image encoder is zero.
    Layer scales stay at one: they serve depths that small encoders don't have.
    """
    for name, parameter in conditioner.named_parameters():
        if "position_embeddings" in name or "pos_embed" in name or name.endswith(("_token", "_tokens")):
            nn.init.normal_(parameter, std=0.7)
        elif "lambda1" in name or "gamma" in name:
            parameter.requires_grad_(False)
    encoder = conditioner.image_encoder
    patches = encoder.backbone.embeddings.patch_embeddings.projection
    nn.init.normal_(patches.weight, std=0.02)
    black = encoder.norm(torch.zeros(1, 3, *patches.kernel_size))
    assert patches.bias is not None
    patches.bias.copy_(-F.conv2d(black, patches.weight).flatten())


@torch.no_grad()
def encode_all(vae: StructureVAE, samples: Samples) -> Tensor:
    """Structure latents of every object row, float32 [N, c, R, R, R] on the CPU.

    Encoding them anew would be a tenth of a step, and all of 60,000 take minutes: those of a folder are kept in it, in
    a file that is named after the objects and the VAE, until there are others.
    """
    kept = None if samples.folder is None else samples.folder / f"{LATENTS}{_digest(vae, samples)}.safetensors"
    if kept is not None and kept.exists():
        return load_file(kept)["latents"]
    device = next(vae.parameters()).device
    rows = np.arange(len(samples.objects["family"]))
    chunks = np.array_split(rows, max(1, len(rows) // 4))  # a third less time than with 64 at once
    latents = torch.cat([vae.encoder(torch.from_numpy(samples.occupancy(c)).to(device)).cpu() for c in chunks])
    if kept is not None:
        for other in kept.parent.glob(f"{LATENTS}*.safetensors"):  # not what another process is writing
            other.unlink(missing_ok=True)
        write_arrays(kept, {"latents": latents.numpy()})
    return latents


def _digest(vae: StructureVAE, samples: Samples) -> str:
    """What latents depend on, in 16 digits."""
    digest = hashlib.sha256(samples.objects["occupancy"].tobytes())
    for value in vae.encoder.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


class EncoderStage:
    """Direct supervision of the encoders on samples whose truth is known; latents come from the frozen VAE."""

    def __init__(
        self,
        model: EncoderPretraining,
        vae: StructureVAE,
        train: Samples | None,
        held_out: Samples,
        *,
        patch: int,
        resolution: int,
    ) -> None:
        """train: None when `see` will say before the first step."""
        self.model = model
        self.vae, self.held_out = vae.requires_grad_(False).eval(), held_out
        self.patch, self.resolution = patch, resolution
        if train is not None:
            self.see(train, encode_all(self.vae, train))

    def see(self, train: Samples, latents: Tensor) -> None:
        """Learn from these samples from now on. latents: theirs, as encode_all."""
        self.train, self.latents = train, latents
        shares = np.array([FAMILY_WEIGHTS.get(family, 1.0) for family in FAMILIES])[train.objects["family"]]
        up_to = np.cumsum(shares)
        self.drawn_up_to = up_to / up_to[-1]

    def loss(self, step_rng: np.random.Generator, noise: torch.Generator) -> Mapping[str, Tensor]:
        """Terms of one step: many single objects, a few whole scenes."""
        rows = self.draw_objects(step_rng, OBJECTS_PER_STEP)
        known = len(self.train.counts)
        scenes = step_rng.choice(known, min(SCENES_PER_STEP, known), replace=False)
        terms = self.object_terms(rows, step_rng) | self.scene_terms(scenes, step_rng)
        return {"loss": sum((WEIGHTS[k] * v for k, v in terms.items()), torch.zeros(())), **terms}

    def draw_objects(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Rows [count] of objects, by FAMILY_WEIGHTS."""
        return np.searchsorted(self.drawn_up_to, rng.random(count), side="right")

    def object_terms(self, rows: NDArray[np.int64], rng: np.random.Generator) -> dict[str, Tensor]:
        """What asset images alone can tell: shape, yaw, family, extents."""
        model, device = self.model, self.model.box.weight.device
        mirror = self.train.procedural and rng.random() < 0.5
        found = self.train.targets(rows, mirror)
        target = {k: torch.from_numpy(v).to(device) for k, v in found.items()}
        crops = image_tensor(self.train.objects["crop"][rows]).to(device)  # type: ignore[arg-type]
        crops = (crops * _gains(rng, len(rows)).to(device)).clamp(max=1)
        crops = crops.flip(-1) if mirror else crops
        rays = torch.from_numpy(varied_rays(found["rays"], rng, np.ones(len(rows), np.int64))).to(device)
        estimate = model.readout.of_assets(model.conditioner.image_encoder(crops), rays)
        some = unpatchify(estimate.latents[:DECODED_PER_STEP], self.patch, self.resolution)
        truth = torch.from_numpy(self.train.occupancy(rows[:DECODED_PER_STEP])).to(device)
        entropy, dice = occupancy_loss(self.vae.decoder(some), truth)
        return {
            "latent": F.mse_loss(estimate.latents, patchify(self.latents[rows].to(device), self.patch)),
            "entropy": entropy,
            "dice": dice,
            "yaw": F.cross_entropy(estimate.yaw_logits, yaw_targets(target["yaw"], model.readout.yaw_bins)),
            "family": F.cross_entropy(model.family(estimate.features).float(), target["family"]),
            "extents": F.l1_loss(model.extents(estimate.features).float(), target["extents"]),
        }

    def scene_terms(self, scenes: NDArray[np.int64], rng: np.random.Generator) -> dict[str, Tensor]:
        """What takes the whole picture: where objects are, how large, and the geometry around them."""
        model, samples, device = self.model, self.train, self.model.box.weight.device
        mirror = self.train.procedural and rng.random() < 0.5
        targets = samples.targets(samples.rows(scenes), mirror)
        target = {k: torch.from_numpy(v).to(device) for k, v in targets.items()}
        cond = model.conditioner(*condition_batch(samples, scenes, rng, device, mirror))
        position, log_size = model.readout.place(cond)
        local = model.readout.local_tokens
        half = (cond.shape[1] - 3 * local) // 2
        first = torch.from_numpy(np.cumsum(samples.counts[scenes]) - samples.counts[scenes]).to(device)
        geometry = torch.cat([cond[first, 3 * local + k * half :][:, :half] for k in (0, 1)], dim=-1)
        depth = torch.from_numpy(samples.scene["depth"][scenes]).to(device)
        depth = (depth.flip(-1) if mirror else depth).flatten(1)
        seen = torch.isfinite(depth)
        special = half - depth.shape[1]
        camera = torch.from_numpy(samples.scene["camera"][scenes, :2]).to(device)
        # with known rays an error is worth what it is beside the object, otherwise what it is beside the distance
        known = model.readout.rays(cond)[:, :1] > 0
        unit = torch.where(known, POSITION_UNIT * target["log_size"].exp()[:, None], 1.0)
        return {
            "position": F.smooth_l1_loss(position / unit, target["position"] / unit, beta=0.1),
            "size": F.smooth_l1_loss(log_size, target["log_size"], beta=0.1),
            "box": F.l1_loss(model.box(cond[:, local]).float(), target["box"]),
            "depth": F.l1_loss(model.depth(geometry[:, special:]).float()[..., 0][seen], depth[seen]),
            "camera": F.l1_loss(model.camera(geometry[:, 0]).float(), camera),
        }

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Held-out: IoU of the regressed shape, yaw error (degrees) of asymmetric objects, family accuracy, and the

        error of composed placements: translation in query sizes, scale ratio. Names that end in _unknown: the same
        where nothing is known of the camera.
        """
        assert isinstance(model, EncoderPretraining)
        device = model.box.weight.device
        results: dict[str, list[Tensor]] = {}
        for members in self.held_out.by_count().values():
            for scenes in np.array_split(members[:96], max(1, len(members[:96]) // 16)):
                arguments = condition_batch(self.held_out, scenes, None, device)
                with torch.autocast(device.type, torch.bfloat16):
                    cond = model.conditioner(*arguments)
                for name, value in self._errors(model, cond, scenes).items():
                    results.setdefault(name, []).append(value)
                if model.readout.ray_token:
                    cond[:, -1] = 0
                    for name, value in self._errors(model, cond, scenes).items():
                        results.setdefault(f"{name}_unknown", []).append(value)
        merged = {k: torch.cat(v).float() for k, v in results.items()}
        means = {k: float(v.mean()) for k, v in merged.items() if k.startswith(("voxel", "family", "yaw_deg_mean"))}
        return means | {k: float(v.median()) for k, v in merged.items() if k not in means and len(v)}

    def _errors(self, model: EncoderPretraining, cond: Tensor, scenes: NDArray[np.int64]) -> dict[str, Tensor]:
        """What validate averages, of held-out scenes of equal count with condition tokens [N, T, C]."""
        device, readout = cond.device, model.readout
        rows = self.held_out.rows(scenes)
        truth = {k: torch.from_numpy(v[rows]).to(device) for k, v in self.held_out.objects.items()}
        with torch.autocast(device.type, torch.bfloat16):
            estimate = readout(cond, scenes=len(scenes))
            asset = readout.of_assets(cond[:, : readout.local_tokens], readout.rays(cond))
            family = model.family(asset.features)
        logits = self.vae.decoder(unpatchify(estimate.latents, self.patch, self.resolution))
        grids = torch.from_numpy(self.held_out.occupancy(rows)).to(device)
        turned = (yaw_from_logits(asset.yaw_logits) - truth["yaw"])[truth["symmetry"] == 1]
        yaw = torch.atan2(turned.sin(), turned.cos()).abs().rad2deg()
        placed = compose_placements(truth["position"], truth["log_size"], truth["yaw"], len(scenes))
        others = torch.arange(len(rows), device=device) % (len(rows) // len(scenes)) > 0
        return {
            "voxel_iou": voxel_iou(logits, grids),
            "yaw_deg_median": yaw,
            "yaw_deg_mean": yaw,
            "family_accuracy": (family.argmax(-1) == truth["family"]).float(),
            "translation": (estimate.placements - placed)[others, :3].norm(dim=-1),
            "scale_log": (estimate.placements / placed)[others, 7].log().abs(),
        }
