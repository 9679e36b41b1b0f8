"""SceneGen, as in Figure 3 of the paper: views -> condition tokens -> structure and placements -> coarse assets ->
structured latents -> textured assets -> scene.

Knows nothing about sockets, files of scenes, or where the scene stands in a robot's frame.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scenegen.generator.checkpoints import Mode
from scenegen.generator.finishing import Finishing, ready
from scenegen.generator.latents.sampling import sample_latents
from scenegen.generator.latents.stand import Stand, completed, stand_of
from scenegen.generator.loading import LatentParts, Parts, load_parts
from scenegen.generator.meshing.coarse import coarse_mesh, mean_colour
from scenegen.generator.meshing.flexicubes import extract
from scenegen.generator.nn.sparse import Voxels
from scenegen.generator.sampling import Step, cpu_noise, sample_structure
from scenegen.generator.structure.coords import occupied_box
from scenegen.generator.work import Work
from scenegen.generator.workers import Workers
from scenegen.scene import DETAILS, Asset, Detail, InvalidInput, Placement, Progress, Scene, View

MOST_FINISHERS = 8
"""Processes that finish meshes, at most: each takes a core, and some hundred megabytes while it lives."""

_log = logging.getLogger(__name__)


class GenerationError(RuntimeError):
    """The networks produced nothing usable from valid input. The message says what, and what to try."""


class SceneGen:
    """Generates the objects of a scene and where they stand relative to each other, from one or several views."""

    def __init__(self, parts: Parts) -> None:
        self.conditioner, self.flow, self.decoder = parts.conditioner, parts.flow, parts.decoder
        self.sampler, self.multiview = parts.sampler, parts.multiview
        self.latents = parts.latents
        self._memory = parts.memory
        self._finishers = Workers(min(len(os.sched_getaffinity(0)), MOST_FINISHERS))

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: str = "cpu",
        memory: Literal["all", "low"] = "all",
        mode: Mode = "exact",
    ) -> SceneGen:
        """Load a checkpoint: whatever `find_weights` takes, as a folder or the name of packaged weights ("tiny").

        Its args: models (roles sparse_structure_flow_model and sparse_structure_decoder; for textured assets also
        slat_flow_model, slat_decoder_mesh and slat_decoder_gs; role to relative path), sparse_structure_sampler,
        slat_sampler, slat_normalization, image_cond_model and vggt_model (as `find_encoder` takes), multiview
        ("published", the default, or "joint"). memory: with "low", each model has its weights only while it works.
        mode: "fast" samples in fewer steps, as the samplers' own entries `fast` say or by the rule of docs/speed.md.
        Raises InvalidInput naming the file and what is wrong with it, or the device that cannot be used.
        """
        return cls(load_parts(folder, device, memory, mode))

    @torch.inference_mode()
    def generate(
        self,
        views: Sequence[View],
        *,
        seed: int = 42,
        ids: Sequence[int] | None = None,
        detail: Detail = "textured",
        on_progress: Callable[[Progress], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Scene:
        """Generate the objects with the given instance ids, or all that the first view sees.

        Only views that see every one of them are used; equal input and seed give equal scenes. detail: "coarse" stops
        at the surface of the structure; "textured" goes on where the checkpoint can, and then on_progress hears of the
        coarse scene first. An asset whose textured mesh comes out damaged stays coarse, and the log says so.
        on_progress hears of every step and every finished asset. cancelled is asked before every step. An object
        whose structure comes out empty or without size is left out and logged. Raises InvalidInput for unusable views,
        ids or detail, Cancelled, and GenerationError when the query asset itself comes out empty.
        """
        if detail not in DETAILS:
            raise InvalidInput(f"detail is {detail!r}, it must be one of: {', '.join(DETAILS)}")
        work = Work(on_progress, cancelled)
        views, ids = views_and_ids(views, ids)
        random = torch.Generator().manual_seed(seed)
        latents = self.latents if detail == "textured" else None
        dense = 1.0 if latents is None else 0.4
        if latents is not None:
            self._finishers.warm(ready, len(ids))

        encoders = self.conditioner.image_encoder, self.conditioner.geometry_encoder
        with work.stage("conditioning", 0.15 * dense), self._memory.working(*encoders):
            conditions = self.conditioner.encode(views, ids, self.multiview)

        with work.stage("structure", 0.7 * dense), self._memory.working(self.flow):
            structures, placements = self._structure(conditions, random, work)

        with work.stage("assets", 0.15 * dense), self._memory.working(self.decoder):
            assets, stands = self._coarse_assets(ids, structures, placements, views, work)

        scene = _scene(assets, placements, dict(work.seconds))
        if latents is None:
            return scene
        work.done(1.0, scene=scene)

        with work.stage("latents", 0.3), self._memory.working(latents.flow):
            voxels, features = self._latents(latents, conditions, assets, stands, random, work)

        with work.stage("textures", 0.3), self._memory.working(*latents.decoders):
            textured = self._textured_assets(latents, assets, stands, voxels, features, work)

        final = tuple(textured.get(asset.id, asset) for asset in scene.assets)
        return replace(scene, assets=final, seconds=work.seconds)

    def device_memory(self) -> tuple[int, int] | None:
        """Bytes in use and in all on the GPU; None on a CPU. May be asked from another thread."""
        return self._memory.device_memory()

    def _structure(
        self, conditions: Tensor, random: torch.Generator, work: Work
    ) -> tuple[Tensor, list[Placement | None]]:
        """Structure latents [N, c, R, R, R] and placements for condition tokens [K, N, T, C], query first."""
        shape = conditions.shape[1], self.decoder.input_layer.in_channels, *[self.flow.resolution] * 3

        def on_step(step: Step) -> None:
            work.done((step.index + 1) / step.count)

        latents, rows = sample_structure(
            self.flow,
            cpu_noise(shape, random, conditions.device),
            list(conditions),
            on_step=on_step,
            cancelled=work.is_cancelled,
            **asdict(self.sampler),
        )
        if rows is None:
            raise GenerationError("this flow model has no position head: use weights of SceneGen, not of TRELLIS")
        if not (latents.isfinite().all() and rows.isfinite().all()):
            raise GenerationError("the structure holds values that are no numbers: the weights are damaged")
        return latents, [Placement.identity(), *map(_placement, rows.tolist()[1:])]

    def _coarse_assets(
        self,
        ids: Sequence[int],
        latents: Tensor,
        placements: Sequence[Placement | None],
        views: Sequence[View],
        work: Work,
    ) -> tuple[list[Asset | None], list[Stand]]:
        """The asset of each structure latent [c, R, R, R], None for one that is empty or has no placement.

        And where its structured latents are to stand.
        """
        assets: list[Asset | None] = []
        stands = []
        for instance_id, latent, placement in zip(ids, latents, placements, strict=True):
            work.check()
            logits = self.decoder(latent[None]).float()
            on_surface = self.latents is not None and self.latents.on_surface
            stands.append(stand_of(logits, on_surface))
            colour = mean_colour(views, instance_id)
            mesh = None if placement is None else coarse_mesh(logits[0, 0].cpu().numpy(), colour)
            asset = None if mesh is None else Asset(instance_id, f"object_{instance_id}", mesh)
            if asset is None:
                trouble = (
                    f"object {instance_id} came out without {'a placement' if placement is None else 'a structure'}"
                )
                if not assets:
                    raise GenerationError(
                        f"{trouble}, and as the largest it is the query asset, which all others are placed by: "
                        "try another seed, another view or a better mask"
                    )
                _log.warning("%s and is left out: try another seed, another view or a better mask", trouble)
            assets.append(asset)
            work.done(len(assets) / len(ids), asset)
        return assets, stands

    def _latents(
        self,
        latents: LatentParts,
        conditions: Tensor,
        assets: Sequence[Asset | None],
        stands: Sequence[Stand],
        random: torch.Generator,
        work: Work,
    ) -> tuple[Voxels, Tensor]:
        """Structured latents [N, c] of all assets that came out, and the voxels they are on.

        Each is conditioned by the tokens of its own image only, which come first (spec/structure.md section 6.4).
        """
        whole = [i for i, asset in enumerate(assets) if asset is not None]
        coords = [functional.pad(stands[i].voxels[:, 1:], (1, 0), value=sample) for sample, i in enumerate(whole)]
        voxels = Voxels(torch.cat(coords), len(whole))
        settings = asdict(latents.sampler)
        del settings["placement_views"]  # there is nothing to place any more
        tokens = conditions[:, whole, : self.conditioner.image_encoder.num_tokens]
        sampled = sample_latents(
            latents.flow,
            voxels,
            cpu_noise((len(voxels), latents.flow.in_channels), random, conditions.device),
            list(tokens),
            on_step=lambda step: work.done((step.index + 1) / step.count),
            cancelled=work.is_cancelled,
            **settings,
        )
        return voxels, latents.normalisation.restore(sampled)

    def _textured_assets(
        self,
        latents: LatentParts,
        assets: Sequence[Asset | None],
        stands: Sequence[Stand],
        voxels: Voxels,
        features: Tensor,
        work: Work,
    ) -> dict[int, Asset]:
        """The textured assets that came out well, by id; each is finished in a process while others are decoded."""
        whole = [(asset, stand) for asset, stand in zip(assets, stands, strict=True) if asset is not None]
        with Finishing(self._finishers, len(whole), work) as finishing:
            for sample, ((asset, stand), part) in enumerate(zip(whole, voxels.split(features), strict=True)):
                work.check()
                own = voxels.only(sample)
                (fields,) = latents.mesh_decoder.decode(part, own)
                gaussians = None
                if latents.gaussian_decoder is not None:
                    gaussians = latents.gaussian_decoder.decode(part, own)[0].cpu()
                box = occupied_box(own.coords, latents.flow.resolution)
                stairs = 1 / latents.flow.resolution if latents.on_surface else 0.0
                finishing.begin(asset, partial(extract, completed(fields, stand)), gaussians, box, stairs)
            return finishing.results()


def views_and_ids(views: Sequence[View], ids: Sequence[int] | None) -> tuple[list[View], list[int]]:
    """The views that see every wanted id, and the ids by mask area in the first of them, largest (the query) first.

    Raises InvalidInput when there are no views or ids, an id is not valid, or no view sees them all.
    """
    if not views:
        raise InvalidInput("no views: give at least one image with its masks")
    wanted = list(views[0].instance_ids if ids is None else ids)
    if not wanted:
        raise InvalidInput("the masks hold no object: mark every object's pixels with an id above 0")
    if len(set(wanted)) != len(wanted) or min(wanted) < 1:
        raise InvalidInput(f"ids {wanted}: every instance id must be above 0 and be asked for once")
    seeing = [view for view in views if set(wanted) <= set(view.instance_ids)]
    if not seeing:
        seen = [list(view.instance_ids) for view in views]
        raise InvalidInput(f"no view sees all of the objects {wanted} (seen are {seen}): ask for fewer, or add a view")
    areas = {i: int((seeing[0].masks == i).sum()) for i in wanted}
    return seeing, sorted(wanted, key=lambda i: -areas[i])


def _placement(row: Sequence[float]) -> Placement | None:
    """A raw placement [8] (translation, quaternion wxyz, scale), None when it has no rotation or no size."""
    placement = Placement(np.array(row[:3]), np.array(row[3:7]), row[7])
    return placement if placement.scale > 0 and placement.rotation_wxyz.any() else None


def _scene(
    assets: Sequence[Asset | None], placements: Sequence[Placement | None], seconds: Mapping[str, float]
) -> Scene:
    """The scene of what was generated, the query first in the input, by ascending id in the result."""
    whole = [(a, p) for a, p in zip(assets, placements, strict=True) if a is not None and p is not None]
    order = sorted(range(len(whole)), key=lambda i: whole[i][0].id)
    return Scene(
        assets=tuple(whole[i][0] for i in order),
        placements=tuple(whole[i][1] for i in order),
        query=order.index(0),
        seconds=seconds,
    )
