"""What a checkpoint folder holds, without reading its tensors: names, shapes, sizes, and the memory it will need.

Knows nothing about how it is printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from torch import nn

from scenegen.generator.checkpoints.models import (
    MODELS,
    describe,
    open_aggregator,
    open_image_encoder,
    open_model,
    open_vggt,
)
from scenegen.generator.checkpoints.places import find_encoder, find_model
from scenegen.generator.checkpoints.settings import load_pipeline
from scenegen.generator.checkpoints.stored import Stored
from scenegen.generator.checkpoints.tensors import Source, differences, opened
from scenegen.generator.manifests import manifests
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.scene import InvalidInput

LICENCES = {
    "ss_flow_scenegen": "MIT (SceneGen)",
    "vggt_1b": "CC BY-NC 4.0, not for commercial use (VGGT-1B)",
    "dinov2_vitl14_reg": "Apache-2.0 (DINOv2)",
}
TRELLIS_LICENCE = "MIT (TRELLIS)"

WORKING = 150e6 / (4096 * 1024) / 2
"""Numbers per latent token and channel that one asset takes while a flow works, in each of the two branches of guidance
(spec/cost.md section 4: 150 MB in half precision)."""


@dataclass(frozen=True)
class Part:
    """One model of a checkpoint.

    role: of `pipeline.json`. path: its tensors. model: its class. tensors, numbers: how many the model has. file_bytes:
    size of the file. loaded_bytes: of the model on a GPU. dtypes: as stored. published: name of the published model it
    is, if any. troubles: what is wrong, empty for a part that will load. opened: the model, without values.
    """

    role: str
    path: Path
    model: str = ""
    tensors: int = 0
    numbers: int = 0
    file_bytes: int = 0
    loaded_bytes: int = 0
    dtypes: tuple[str, ...] = ()
    published: str | None = None
    troubles: tuple[str, ...] = ()
    opened: nn.Module | None = None

    @property
    def licence(self) -> str:
        """Under which licence the part's weights are published; what is not published says so itself."""
        if self.published is None:
            return "not one of the published models: as its makers say"
        return LICENCES.get(self.published, TRELLIS_LICENCE)


def inspect(folder: Path) -> list[Part]:
    """Every model that a checkpoint's `pipeline.json` names. Raises InvalidInput when that file can't be used."""
    args = load_pipeline(folder)
    named = dict(args["models"]) | {role: args.get(role) for role in ("image_cond_model", "vggt_model")}
    return [_part(folder, role, name) for role, name in named.items()]


def memory_bytes(parts: list[Part], assets: int, views: int, *, low: bool) -> float | None:
    """GPU memory that a scene needs while its structure is sampled, by the figures of spec/cost.md section 4.

    Weights, condition tokens and their cached keys and values for every asset in every view, working memory per
    asset. low: only the model at work has its weights. None when a part that counts is not there.
    """
    loaded = {part.role: part for part in parts if not part.troubles}
    flow = loaded.get("sparse_structure_flow_model")
    encoders = [loaded.get("image_cond_model"), loaded.get("vggt_model")]
    if flow is None or None in encoders or not isinstance(flow.opened, SparseStructureFlowModel):
        return None
    model = flow.opened
    channels, local = model.out_layer.in_features, model.local_tokens
    scene = 5 * local
    element, latents = model.dtype.itemsize, (model.resolution // model.patch_size) ** 3
    per_condition = scene * channels * (2 * 4 + 2 * element)
    cached = len(model.flow_blocks) * 2 * channels * element * (local + scene)
    sampling = assets * (views * (per_condition + cached) + 2 * WORKING * element * latents * channels)
    weights = [part.loaded_bytes for part in loaded.values()]
    if not low:
        return sum(weights) + sampling
    together = sum(part.loaded_bytes for part in encoders if part is not None)
    return max(flow.loaded_bytes + sampling, together, *weights)


def _part(folder: Path, role: str, name: Any) -> Part:
    if not isinstance(name, str):
        return Part(role, folder / "pipeline.json", troubles=(f"pipeline.json has no {role}",))
    try:
        return _described(role, _open(folder, role, name))
    except InvalidInput as error:
        return Part(role, folder / name, troubles=(str(error),))


def _open(folder: Path, role: str, name: str) -> Stored[Any]:
    if role == "image_cond_model":
        return open_image_encoder(find_encoder(folder, name))
    if role == "vggt_model":
        place = find_encoder(folder, name)
        alone = not place.is_dir() and describe(place)[0] == "VGGTAggregator"
        return open_aggregator(place) if alone else open_vggt(place)
    stem = find_model(folder, name)
    kind: Any = MODELS[describe(stem)[0]]
    return open_model(stem, kind)


def _described(role: str, item: Stored[Any]) -> Part:
    state = item.part.state_dict()
    with opened(item.path) as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
        slices = {key: part for key, part in slices.items() if not key.startswith(tuple(item.ignored))}
        shapes = {key: list(part.get_shape()) for key, part in slices.items()}
        kinds = {key: part.get_dtype() for key, part in slices.items()}
    places = {key: item.sources.get(key, Source(key)) for key in state}
    wanted = {place.name: place.shape(state[key].shape) for key, place in places.items()}
    return Part(
        role=role,
        path=item.path,
        model=type(item.model).__name__,
        tensors=len(state),
        numbers=sum(value.numel() for value in state.values()),
        file_bytes=item.path.stat().st_size,
        loaded_bytes=sum(value.numel() * value.element_size() for value in state.values()),
        dtypes=tuple(sorted(set(kinds.values()))),
        published=_published({key: tuple(value.shape) for key, value in state.items()}),
        troubles=tuple(differences(wanted, shapes, kinds)),
        opened=item.model,
    )


def _published(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The published model with exactly these tensors; VGGT's aggregator alone counts as VGGT."""
    names = [name for name, manifest in manifests().items() if dict(manifest.tensors) == shapes]
    whole = {f"aggregator.{key}": shape for key, shape in shapes.items()}
    vggt = manifests()["vggt_1b"].tensors
    if not names and whole.items() <= vggt.items() and sum(map(prod, whole.values())) > 0:
        names = ["vggt_1b"]
    return names[0] if names else None
