"""SceneGen, as in Figure 3 of the paper: views -> condition tokens -> structure and placements -> assets -> scene.

Knows nothing about sockets, files of scenes, or where the scene stands in a robot's frame.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from scenegen.generator.checkpoints import (
    Memory,
    SamplerSettings,
    find_encoder,
    find_model,
    load_pipeline,
    open_aggregator,
    open_image_encoder,
    open_model,
    structure_sampler,
)
from scenegen.generator.conditioning import Conditioner, MultiView
from scenegen.generator.meshing.coarse import coarse_mesh, mean_colour
from scenegen.generator.sampling import Step, cpu_noise, sample_structure
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.generator.structure.vae import SparseStructureDecoder
from scenegen.generator.work import Work
from scenegen.scene import Asset, Detail, InvalidInput, Placement, Progress, Scene, View
from scenegen.weights import find_weights

_log = logging.getLogger(__name__)


class GenerationError(RuntimeError):
    """The networks produced nothing usable from valid input. The message says what, and what to try."""


class SceneGen:
    """Generates the objects of a scene and where they stand relative to each other, from one or several views."""

    def __init__(
        self,
        conditioner: Conditioner,
        flow: SparseStructureFlowModel,
        decoder: SparseStructureDecoder,
        sampler: SamplerSettings,
        multiview: MultiView = "published",
        memory: Memory | None = None,
    ) -> None:
        self.conditioner, self.flow, self.decoder = conditioner, flow, decoder
        self.sampler, self.multiview = sampler, multiview
        self._memory = memory or Memory()

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: str = "cpu", memory: Literal["all", "low"] = "all"
    ) -> SceneGen:
        """Load a checkpoint: whatever `find_weights` takes, as a folder or the name of packaged weights ("tiny").

        Its args: models (roles sparse_structure_flow_model and sparse_structure_decoder; role to relative path),
        sparse_structure_sampler, image_cond_model and vggt_model (as `find_encoder` takes), multiview ("published",
        the default, or "joint"). memory: with "low", each model has its weights only while it works.
        Raises InvalidInput naming the file and what is wrong with it.
        """
        folder = find_weights(folder)
        args = load_pipeline(folder)

        def named(role: str) -> str:
            name = args["models"].get(role, args.get(role))
            if not isinstance(name, str):
                raise InvalidInput(f"{folder / 'pipeline.json'} has no {role}: give its path relative to the folder")
            return name

        multiview = args.get("multiview", "published")
        if multiview not in ("published", "joint"):
            raise InvalidInput(f"{folder / 'pipeline.json'}: multiview {multiview!r} must be 'published' or 'joint'")
        sampler = structure_sampler(folder, args)
        image_name, geometry_name, flow_name, decoder_name = map(
            named, ("image_cond_model", "vggt_model", "sparse_structure_flow_model", "sparse_structure_decoder")
        )
        full_precision = torch.device(device).type == "cpu"
        image = open_image_encoder(find_encoder(folder, image_name))
        geometry = open_aggregator(find_encoder(folder, geometry_name))
        flow = open_model(find_model(folder, flow_name), SparseStructureFlowModel, full_precision=full_precision)
        decoder = open_model(find_model(folder, decoder_name), SparseStructureDecoder, full_precision=full_precision)
        conditioner = Conditioner(image.model, geometry.model)
        _require_fit(folder, conditioner, flow.model, decoder.model)
        stored = Memory([image, geometry, flow, decoder], device, low=memory == "low")
        return cls(conditioner.eval(), flow.model, decoder.model, sampler, multiview, stored)

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

        Only views that see every one of them are used; equal input and seed give equal scenes. on_progress hears of
        every step and every finished asset. cancelled is asked before every step. An object whose structure comes
        out empty or without size is left out and logged. Raises InvalidInput for unusable views or ids, Cancelled,
        and GenerationError when the query asset itself comes out empty.
        """
        work = Work(on_progress, cancelled)
        views, ids = views_and_ids(views, ids)

        encoders = self.conditioner.image_encoder, self.conditioner.geometry_encoder
        with work.stage("conditioning", 0.15), self._memory.working(*encoders):
            conditions = self.conditioner.encode(views, ids, self.multiview)

        with work.stage("structure", 0.7), self._memory.working(self.flow):
            latents, placements = self._structure(conditions, seed, work)

        with work.stage("assets", 0.15), self._memory.working(self.decoder):
            assets = self._coarse_assets(ids, latents, placements, views, work)

        return _scene(assets, placements, work.seconds)

    def _structure(self, conditions: Tensor, seed: int, work: Work) -> tuple[Tensor, list[Placement | None]]:
        """Structure latents [N, c, R, R, R] and placements for condition tokens [K, N, T, C], query first."""
        generator = torch.Generator().manual_seed(seed)
        shape = conditions.shape[1], self.decoder.input_layer.in_channels, *[self.flow.resolution] * 3

        def on_step(step: Step) -> None:
            work.done((step.index + 1) / step.count)

        latents, rows = sample_structure(
            self.flow,
            cpu_noise(shape, generator, conditions.device),
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
    ) -> list[Asset | None]:
        """The asset of each structure latent [c, R, R, R], None for one that is empty or has no placement."""
        assets: list[Asset | None] = []
        for instance_id, latent, placement in zip(ids, latents, placements, strict=True):
            work.check()
            logits = self.decoder(latent[None])[0, 0].float().cpu().numpy()
            mesh = None if placement is None else coarse_mesh(logits, mean_colour(views, instance_id))
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
        return assets


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


def _require_fit(
    folder: Path, conditioner: Conditioner, flow: SparseStructureFlowModel, decoder: SparseStructureDecoder
) -> None:
    """Raise InvalidInput when models of one checkpoint do not belong together."""
    image, geometry = conditioner.image_encoder, conditioner.geometry_encoder
    pairs = {
        "condition channels (image encoder, geometry encoder)": (image.config.hidden_size, geometry.embed_dim),
        "condition channels (image encoder, flow)": (image.config.hidden_size, flow.out_layer.in_features),
        "tokens of an asset image (image encoder, flow's local_tokens)": (image.num_tokens, flow.local_tokens),
        "latent channels (flow, decoder)": (
            flow.input_layer.in_features // flow.patch_size**3,
            decoder.input_layer.in_channels,
        ),
    }
    for what, (left, right) in pairs.items():
        if left != right:
            raise InvalidInput(f"{folder}: {what} are {left} and {right}: these models were not made for each other")


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
