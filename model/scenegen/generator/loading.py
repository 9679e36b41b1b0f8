"""The parts of a SceneGen, out of a checkpoint: which models its `pipeline.json` names, and that they fit together.

Knows nothing about what the parts do when they work.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from scenegen.generator.checkpoints import (
    Memory,
    Mode,
    SamplerSettings,
    find_encoder,
    find_model,
    latent_normalization,
    latent_sampler,
    load_pipeline,
    open_aggregator,
    open_image_encoder,
    open_model,
    structure_sampler,
)
from scenegen.generator.checkpoints.stored import Model, Stored
from scenegen.generator.conditioning import Conditioner, MultiView
from scenegen.generator.devices import require_device
from scenegen.generator.latents.flow import SLatFlowModel
from scenegen.generator.latents.gaussian_decoder import SLatGaussianDecoder
from scenegen.generator.latents.mesh_decoder import SLatMeshDecoder
from scenegen.generator.latents.normalisation import LatentNormalisation
from scenegen.generator.nn.precision import half_for
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.generator.structure.readout import ConditionReadout
from scenegen.generator.structure.vae import SparseStructureDecoder, Upsample
from scenegen.scene import InvalidInput
from scenegen.weights import find_weights


@dataclass(frozen=True)
class LatentParts:
    """What makes textured assets of sparse structures.

    gaussian_decoder: None where meshes have their own colours. on_surface: structures are solid, and latents stand on
    the voxels of their surface; otherwise on all that are occupied, as published.
    """

    flow: SLatFlowModel
    mesh_decoder: SLatMeshDecoder
    gaussian_decoder: SLatGaussianDecoder | None
    sampler: SamplerSettings
    normalisation: LatentNormalisation
    on_surface: bool

    @property
    def decoders(self) -> list[SLatMeshDecoder | SLatGaussianDecoder]:
        """Of latents to meshes and their colours."""
        return [d for d in (self.mesh_decoder, self.gaussian_decoder) if d is not None]


@dataclass(frozen=True)
class Parts:
    """Everything of one checkpoint. latents: None where it has no structured latents."""

    conditioner: Conditioner
    flow: SparseStructureFlowModel
    decoder: SparseStructureDecoder
    sampler: SamplerSettings
    multiview: MultiView
    latents: LatentParts | None
    memory: Memory


def load_parts(folder: str | Path, device: str, memory: Literal["all", "low"], mode: Mode) -> Parts:
    """Load a checkpoint; arguments and errors are those of `SceneGen.from_pretrained`."""
    folder = find_weights(folder)
    require_device(device)
    args = load_pipeline(folder)
    multiview = args.get("multiview", "published")
    if multiview not in ("published", "joint"):
        raise InvalidInput(f"{folder / 'pipeline.json'}: multiview {multiview!r} must be 'published' or 'joint'")
    sampler = structure_sampler(folder, args, mode)
    image_name, geometry_name, flow_name, decoder_name = (
        place_in_pipeline(folder, args, role)
        for role in ("image_cond_model", "vggt_model", "sparse_structure_flow_model", "sparse_structure_decoder")
    )
    half = half_for(device, fast=mode == "fast")
    image = open_image_encoder(find_encoder(folder, image_name))
    geometry = open_aggregator(find_encoder(folder, geometry_name))
    flow = open_model(find_model(folder, flow_name), SparseStructureFlowModel, half=half)
    decoder = open_model(find_model(folder, decoder_name), SparseStructureDecoder, half=half)
    ray_token = isinstance(flow.model.readout, ConditionReadout) and flow.model.readout.ray_token
    conditioner = Conditioner(image.model, geometry.model, ray_token=ray_token).eval()
    stored: list[Stored[Any]] = [image, geometry, flow, decoder]
    latents = None
    if "slat_flow_model" in args["models"]:
        latents, more = _latent_parts(folder, args, half, mode)
        stored += more
    _require_fit(folder, conditioner, flow.model, decoder.model, latents)
    return Parts(
        conditioner, flow.model, decoder.model, sampler, multiview, latents, Memory(stored, device, low=memory == "low")
    )


def _latent_parts(
    folder: Path, args: dict[str, Any], half: torch.dtype, mode: Mode
) -> tuple[LatentParts, list[Stored[Any]]]:
    def opened(role: str, kind: type[Model]) -> Stored[Model]:
        return open_model(find_model(folder, place_in_pipeline(folder, args, role)), kind, half=half)

    stand_on = args.get("latent_voxels", "occupied")
    if stand_on not in ("occupied", "surface"):
        raise InvalidInput(f"{folder / 'pipeline.json'}: latent_voxels {stand_on!r} must be 'occupied' or 'surface'")
    flow, mesh = opened("slat_flow_model", SLatFlowModel), opened("slat_decoder_mesh", SLatMeshDecoder)
    has_colours = mesh.model.out_layer.out_features > SLatMeshDecoder.FIELD_CHANNELS
    gaussians = [] if has_colours else [opened("slat_decoder_gs", SLatGaussianDecoder)]
    parts = LatentParts(
        flow.model,
        mesh.model,
        gaussians[0].model if gaussians else None,
        latent_sampler(folder, args, mode),
        LatentNormalisation(*latent_normalization(folder, args)),
        stand_on == "surface",
    )
    return parts, [flow, mesh, *gaussians]


def place_in_pipeline(folder: Path, args: dict[str, Any], role: str) -> str:
    """Where a checkpoint's `pipeline.json` says that the model of a role is. InvalidInput when it does not say."""
    name = args["models"].get(role, args.get(role))
    if not isinstance(name, str):
        raise InvalidInput(f"{folder / 'pipeline.json'} has no {role}: give its path relative to the folder")
    return name


def _require_fit(
    folder: Path,
    conditioner: Conditioner,
    flow: SparseStructureFlowModel,
    decoder: SparseStructureDecoder,
    latents: LatentParts | None,
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
    if latents is not None:
        channels = latents.flow.in_channels
        doublings = sum(isinstance(block, Upsample) for block in decoder.blocks)
        pairs |= {
            "resolutions (structure decoder, latent flow)": (
                flow.resolution * 2**doublings,
                latents.flow.resolution,
            ),
            "condition channels (image encoder, latent flow)": (image.config.hidden_size, latents.flow.cond_channels),
            "latent channels (latent flow, slat_normalization)": (channels, len(latents.normalisation.mean)),
        }
        for decoder_of_latents in latents.decoders:
            name = type(decoder_of_latents).__name__
            pairs[f"latent channels (latent flow, {name})"] = channels, decoder_of_latents.in_channels
            pairs[f"resolutions (latent flow, {name})"] = latents.flow.resolution, decoder_of_latents.resolution
    for what, (left, right) in pairs.items():
        if left != right:
            raise InvalidInput(f"{folder}: {what} are {left} and {right}: these models were not made for each other")
