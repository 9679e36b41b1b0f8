"""Models from checkpoints: `X.json` ({"name", "args"}) with `X.safetensors`, and the encoders' own layouts.

Knows nothing about how the models are used, nor where a pipeline wants them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from scenegen.generator.checkpoints.naming import hub_config, stored_names
from scenegen.generator.checkpoints.places import with_ending
from scenegen.generator.checkpoints.settings import read_json, write_json
from scenegen.generator.checkpoints.stored import Stored
from scenegen.generator.checkpoints.tensors import (
    Source,
    parameters_without_memory,
    save_weights,
    tensor_shapes,
)
from scenegen.generator.encoders.dinov2 import ImageEncoder
from scenegen.generator.encoders.vggt import VGGTAggregator
from scenegen.generator.encoders.vggt_cameras import VGGT
from scenegen.generator.latents.encoder import SLatEncoder
from scenegen.generator.latents.flow import SLatFlowModel
from scenegen.generator.latents.gaussian_decoder import SLatGaussianDecoder
from scenegen.generator.latents.mesh_decoder import SLatMeshDecoder
from scenegen.generator.latents.radiance_decoder import SLatRadianceFieldDecoder
from scenegen.generator.nn.precision import replace_half
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.generator.structure.vae import SparseStructureDecoder, SparseStructureEncoder
from scenegen.scene import InvalidInput

MODELS: Mapping[str, Callable[..., nn.Module]] = {
    model.__name__: model
    for model in (
        SparseStructureFlowModel,
        SparseStructureDecoder,
        SparseStructureEncoder,
        SLatFlowModel,
        SLatEncoder,
        SLatGaussianDecoder,
        SLatRadianceFieldDecoder,
        SLatMeshDecoder,
        VGGTAggregator,
        VGGT,
    )
}
"""Every class that an `X.json` may name."""

TRAINING_PREFIX = "Elastic"
"""Names that begin so are wrappers for training around the model of the rest of the name (spec/latents.md 13)."""

VGGT_1B: Mapping[str, Any] = {
    "embed_dim": 1024,
    "patch_embed_vit": {"depth": 24, "num_heads": 16},
    "aa_depth": 24,
    "aa_heads": 16,
    "img_size": 518,
    "patch_size": 14,
    "camera_head": {"dim_in": 2048, "num_heads": 16, "trunk_depth": 4, "iterations": 4},
    "dpt": {"features": 256, "out_channels": [256, 512, 1024, 1024], "intermediate_layer_idx": [4, 11, 17, 23]},
}
"""Arguments of the published VGGT, whose own `config.json` only says a few of them."""

VGGT_HEADS = ("camera_head", "depth_head", "point_head", "track_head")
VGGT_ONLY_ARGUMENTS = ("camera_head", "dpt")

Model = TypeVar("Model", bound=nn.Module)


def describe(stem: Path) -> tuple[str, dict[str, Any]]:
    """The name of the model that `stem.json` describes, and its arguments. Raises InvalidInput for an unknown one."""
    config = with_ending(stem, ".json")
    description = read_json(config)
    name, args = description.get("name"), description.get("args")
    known = name.removeprefix(TRAINING_PREFIX) if isinstance(name, str) else ""
    if known not in MODELS or not isinstance(args, dict):
        raise InvalidInput(f"{config}: model {name!r} with args {args!r} is unknown; known are {sorted(MODELS)}")
    return known, args


def open_model(stem: Path, kind: type[Model], *, half: torch.dtype = torch.float16) -> Stored[Model]:
    """What `stem.json` describes, which must be of the given kind, with the tensors of `stem.safetensors`.

    Stored dtypes may differ from the model's: values are cast. half: what the parts have that the description says are
    float16, which CPUs are slow at. Raises InvalidInput naming the file and the trouble.
    """
    name, args = describe(stem)
    config = with_ending(stem, ".json")
    if MODELS[name] is not kind:
        raise InvalidInput(f"{config} describes a {name}, but a {kind.__name__} is needed there: check pipeline.json")
    model = build(kind, config, args)
    replace_half(model, half)
    return Stored(model, model, with_ending(stem, ".safetensors"))


def load_model(stem: Path, kind: type[Model]) -> Model:
    """`open_model`, loaded."""
    return open_model(stem, kind).load()


def open_image_encoder(place: Path) -> Stored[ImageEncoder]:
    """An image encoder in a transformers folder, or in a safetensors file with the DINOv2 authors' names.

    A folder has `config.json` and `model.safetensors`, with the names of the pinned transformers or of version 4.
    """
    if place.suffix == ".safetensors":
        path, stored = place, tensor_shapes(place)
        encoder = build(ImageEncoder, path, {"config": hub_config(stored)})
    else:
        config, path = place / "config.json", place / "model.safetensors"
        encoder = build(ImageEncoder, config, {"config": read_json(config)})
        stored = tensor_shapes(path)
    return Stored(encoder, encoder.backbone, path, stored_names(encoder.backbone.state_dict(), stored))


def open_aggregator(place: Path) -> Stored[VGGTAggregator]:
    """VGGT's aggregator, alone or inside a whole VGGT, of which nothing else is read.

    place: a path without ending (`X.json` names VGGTAggregator or VGGT), or a folder as `VGGT-1B` on Hugging Face.
    """
    name, args, config, path = _vggt(place)
    if name == "VGGTAggregator":
        return open_model(place, VGGTAggregator)
    model = build(VGGTAggregator, config, {k: v for k, v in args.items() if k not in VGGT_ONLY_ARGUMENTS})
    inside = {key: Source(f"aggregator.{key}") for key in model.state_dict()}
    return Stored(model, model, path, inside, [f"{head}." for head in VGGT_HEADS])


def open_vggt(place: Path) -> Stored[VGGT]:
    """VGGT with its camera, depth and point heads. Raises InvalidInput when a checkpoint has only the aggregator."""
    name, args, config, path = _vggt(place)
    if name == "VGGTAggregator":
        raise InvalidInput(
            f"{config} describes only the aggregator: geometry by VGGT needs its camera and depth heads, as in VGGT-1B"
        )
    model = build(VGGT, config, args)
    return Stored(model, model, path, ignored=["track_head."])


def _vggt(place: Path) -> tuple[str, dict[str, Any], Path, Path]:
    """Which part of VGGT a place holds: name, arguments, and the files of both."""
    if not place.is_dir():
        name, args = describe(place)
        if name not in ("VGGT", "VGGTAggregator"):
            raise InvalidInput(
                f"{with_ending(place, '.json')} describes a {name}, but a VGGTAggregator is needed there"
            )
        return name, args, with_ending(place, ".json"), with_ending(place, ".safetensors")
    config = place / "config.json"
    said = read_json(config)
    for key in ("embed_dim", "img_size", "patch_size"):
        if said.get(key, VGGT_1B[key]) != VGGT_1B[key]:
            raise InvalidInput(f"{config}: {key} is {said[key]}, but of this layout only VGGT-1B is known")
    return "VGGT", dict(VGGT_1B), config, place / "model.safetensors"


def build(kind: type[Model], config: Path, args: Mapping[str, Any]) -> Model:
    """A model without values in its parameters. Raises InvalidInput naming the file that described it."""
    try:
        with parameters_without_memory():
            return kind(**args)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise InvalidInput(f"{config} does not describe a {kind.__name__}: {error}") from error


def save_model(
    folder: Path, name: str, module: nn.Module, args: Mapping[str, Any], dtype: torch.dtype = torch.float16
) -> None:
    """Write `name.json` and `name.safetensors` into folder, floating-point tensors in the given dtype."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", {"name": type(module).__name__, "args": dict(args)})
    save_weights(module, folder / f"{name}.safetensors", dtype)


def save_image_encoder(folder: Path, encoder: ImageEncoder, dtype: torch.dtype = torch.float16) -> None:
    """Write an image encoder as a transformers folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", encoder.arguments())
    save_weights(encoder.backbone, folder / "model.safetensors", dtype)
