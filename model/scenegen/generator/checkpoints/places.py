"""Where the models that a `pipeline.json` names stand: in its folder, beside it, or in the Hugging Face cache.

A name is a path without ending relative to the folder ("ckpts/ss_flow"), the name of a repository
("facebook/VGGT-1B", or "owner/name/ckpts/ss_flow" for a model inside it), or a name the DINOv2 authors gave a model.
Knows nothing about what is in the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scenegen.generator.checkpoints.tensors import PICKLES, require_safetensors
from scenegen.scene import InvalidInput
from scenegen.weights import cached_repository

HUB_REPOSITORIES = {"dinov2_vitl14_reg": "facebook/dinov2-with-registers-large"}
"""Models that a published `pipeline.json` names as the DINOv2 authors do, and their repositories on Hugging Face."""

HUB_FILES = {"dinov2_vitl14_reg": "dinov2_vitl14_reg4_pretrain.safetensors"}
"""The same models as the authors' own files, converted."""


def find_model(folder: Path, name: str) -> Path:
    """The path without ending of a model described by `X.json` with `X.safetensors` beside it.

    Raises InvalidInput naming what is missing.
    """
    for stem in _candidates(folder, name):
        if with_ending(stem, ".json").is_file():
            return stem
    raise InvalidInput(_missing(folder, name))


def find_encoder(folder: Path, name: str) -> Path:
    """The place of an encoder: a folder with `config.json`, a safetensors file, or a path without ending as above.

    Raises InvalidInput naming what is missing.
    """
    for place in _candidates(folder, name):
        if place.is_dir() or with_ending(place, ".json").is_file():
            return place
        if place.suffix == ".safetensors" and any(place.with_suffix(s).is_file() for s in (*PICKLES, ".safetensors")):
            require_safetensors(place)
            return place
    raise InvalidInput(_missing(folder, name))


def with_ending(stem: Path, ending: str) -> Path:
    """The path with an ending added, whatever dots its name has."""
    return stem.with_name(stem.name + ending)


def _candidates(folder: Path, name: str) -> Iterator[Path]:
    """Where a name may lead, best first."""
    yield folder / name
    if name in HUB_FILES:
        yield folder / HUB_FILES[name]
    repository = HUB_REPOSITORIES.get(name, name)
    if repository.count("/") < 1 or Path(repository).is_absolute():
        return
    owner, own_name, *rest = repository.split("/")
    inside = Path(*rest)
    yield folder / own_name / inside
    yield folder / Path(name).name
    cached = cached_repository(f"{owner}/{own_name}")
    if cached is not None:
        yield cached / inside


def _missing(folder: Path, name: str) -> str:
    missing = f"{with_ending(folder / name, '.json')} is missing"
    if "/" in HUB_REPOSITORIES.get(name, name):
        missing += f", and {name} is not in the Hugging Face cache"
    return f"{missing}: the checkpoint is not complete (`scenegen download full` fetches all of the published one)"
