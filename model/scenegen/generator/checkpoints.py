"""Checkpoints on disk: a `pipeline.json`, and for each model `X.json` ({"name", "args"}) with `X.safetensors`.

The published layout (spec/structure.md section 0). Strict: a tensor that is missing, too many or of another shape is
an error that names it. Safetensors only, nothing is unpickled, nothing is downloaded. Knows nothing about how the
models are used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from scenegen.generator.encoders.dinov2 import ImageEncoder
from scenegen.generator.encoders.vggt import VGGTAggregator
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.generator.structure.vae import SparseStructureDecoder, SparseStructureEncoder
from scenegen.scene import InvalidInput

MODELS: Mapping[str, Callable[..., nn.Module]] = {
    model.__name__: model
    for model in (SparseStructureFlowModel, SparseStructureDecoder, SparseStructureEncoder, VGGTAggregator)
}
"""Every class that an `X.json` may name."""

PIPELINE = "pipeline.json"

_GUIDANCE: Mapping[str, Mapping[str, Any]] = {
    "FlowEulerGuidanceIntervalSamplerVGGT": {},
    "FlowEulerCfgSamplerVGGT": {"interval": (0.0, 1.0)},
    "FlowEulerSamplerVGGT": {"guidance": 0.0},
}
"""Samplers of placements and structures by published name, and what is fixed in each."""

_PARAMETERS = {
    "steps": "steps",
    "rescale_t": "rescale_t",
    "cfg_strength": "guidance",
    "cfg_interval": "interval",
    "placement_views": "placement_views",
}

Model = TypeVar("Model", bound=nn.Module)


def load_pipeline(folder: Path) -> dict[str, Any]:
    """The `args` of a checkpoint's `pipeline.json`. Raises InvalidInput when it is missing or not of that kind."""
    args = _read_json(folder / PIPELINE).get("args")
    if not isinstance(args, dict) or not isinstance(args.get("models"), dict):
        raise InvalidInput(
            f"{folder / PIPELINE} names no models: expected {{'name', 'args': {{'models': {{role: path}}, ...}}}}"
        )
    return args


@dataclass(frozen=True)
class SamplerSettings:
    """How the structure is sampled; the names are those of `sampling.sample_structure`."""

    steps: int = 25
    rescale_t: float = 3.0
    guidance: float = 5.0
    interval: tuple[float, float] = (0.5, 1.0)
    placement_views: int | None = None


def structure_sampler(folder: Path, pipeline: Mapping[str, Any]) -> SamplerSettings:
    """Settings of `sparse_structure_sampler`. Raises InvalidInput for an unknown sampler or parameter."""
    entry = pipeline.get("sparse_structure_sampler", {})
    name = entry.get("name")
    if name not in _GUIDANCE:
        raise InvalidInput(f"{folder / PIPELINE}: structure sampler {name!r} is unknown; known are {sorted(_GUIDANCE)}")
    try:
        settings = SamplerSettings(**{_PARAMETERS[key]: value for key, value in entry.get("params", {}).items()})
        low, high = settings.interval
        settings = replace(settings, interval=(float(low), float(high)), **_GUIDANCE[name])
        valid = settings.steps >= 1 and settings.rescale_t > 0 and settings.placement_views != 0
    except (KeyError, TypeError, ValueError, AttributeError):
        valid = False
    if not valid:
        raise InvalidInput(
            f"{folder / PIPELINE}: params of {name} are {entry.get('params')!r}; expected steps (1 or more), "
            "rescale_t (above 0), cfg_strength, cfg_interval [low, high], placement_views (1 or more, or left out)"
        )
    return settings


def load_model(stem: Path, kind: type[Model]) -> Model:
    """Build what `stem.json` describes, which must be of the given kind, with the tensors of `stem.safetensors`.

    Stored dtypes may differ from the model's: values are cast. Raises InvalidInput naming the file and the trouble.
    """
    config = stem.with_name(stem.name + ".json")
    description = _read_json(config)
    name, args = description.get("name"), description.get("args")
    if not isinstance(name, str) or name not in MODELS or not isinstance(args, dict):
        raise InvalidInput(f"{config}: model {name!r} with args {args!r} is unknown; known are {sorted(MODELS)}")
    if MODELS[name] is not kind:
        raise InvalidInput(f"{config} describes a {name}, but a {kind.__name__} is needed there: check {PIPELINE}")
    model = _build(kind, config, args)
    load_weights(model, stem.with_name(stem.name + ".safetensors"))
    return model.eval()


def load_image_encoder(folder: Path) -> ImageEncoder:
    """An image encoder from a transformers folder: `config.json` and `model.safetensors`."""
    config = folder / "config.json"
    encoder = _build(ImageEncoder, config, {"config": _read_json(config)})
    load_weights(encoder.backbone, folder / "model.safetensors")
    return encoder.eval()


def save_model(
    folder: Path, name: str, module: nn.Module, args: Mapping[str, Any], dtype: torch.dtype = torch.float16
) -> None:
    """Write `name.json` and `name.safetensors` into folder, floating-point tensors in the given dtype."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / f"{name}.json", {"name": type(module).__name__, "args": dict(args)})
    _save_tensors(module, folder / f"{name}.safetensors", dtype)


def save_image_encoder(folder: Path, encoder: ImageEncoder, dtype: torch.dtype = torch.float16) -> None:
    """Write an image encoder as a transformers folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", encoder.arguments())
    _save_tensors(encoder.backbone, folder / "model.safetensors", dtype)


def save_pipeline(folder: Path, args: Mapping[str, Any]) -> None:
    """Write `pipeline.json`. args: see `SceneGen.from_pretrained`."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / PIPELINE, {"name": "SceneGen", "args": dict(args)})


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill a module with the tensors of a safetensors file, one at a time, cast into the module's dtypes.

    Raises InvalidInput naming every tensor that is missing, not expected, or of another shape or kind.
    """
    _require_safetensors(path)
    expected = module.state_dict()
    try:
        with safe_open(path, framework="pt") as stored:
            slices = {name: stored.get_slice(name) for name in stored.keys()}  # noqa: SIM118
            shapes = {name: list(part.get_shape()) for name, part in slices.items()}
            kinds = {name: part.get_dtype() for name, part in slices.items()}
            troubles = _differences({name: list(tensor.shape) for name, tensor in expected.items()}, shapes, kinds)
            if troubles:
                shown = "; ".join(troubles[:8]) + (f"; and {len(troubles) - 8} more" if len(troubles) > 8 else "")
                raise InvalidInput(
                    f"{path} does not fit {type(module).__name__}: {shown}. The .json beside it must describe the same "
                    "model as the tensors"
                )
            with torch.no_grad():
                for name, tensor in expected.items():
                    tensor.copy_(stored.get_tensor(name))
    except (SafetensorError, OSError) as error:
        raise InvalidInput(f"{path} is damaged or cut short ({error}): copy or download it again") from error


def _differences(
    expected: Mapping[str, list[int]], shapes: Mapping[str, list[int]], kinds: Mapping[str, str]
) -> list[str]:
    """What is wrong with stored tensors, one line each."""
    troubles = [f"{name} is missing (expected {shape})" for name, shape in expected.items() if name not in shapes]
    for name, shape in shapes.items():
        if name not in expected:
            troubles.append(f"{name} {shape} is not part of the model")
        elif shape != expected[name]:
            troubles.append(f"{name} is {shape}, expected {expected[name]}")
        elif not kinds[name].startswith(("F", "BF")):
            troubles.append(f"{name} holds {kinds[name]} values, expected floating point")
    return troubles


def _require_safetensors(path: Path) -> None:
    if path.is_file():
        return
    pickled = [path.with_suffix(suffix) for suffix in (".pt", ".pth") if path.with_suffix(suffix).is_file()]
    if pickled:
        raise InvalidInput(
            f"{pickled[0]} is a pickle, which can run code when it is opened: only safetensors are read. Convert it to "
            f"{path.name} first"
        )
    raise InvalidInput(f"{path} is missing: the checkpoint is not complete")


def _build(kind: type[Model], config: Path, args: Mapping[str, Any]) -> Model:
    try:
        return kind(**args)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise InvalidInput(f"{config} does not describe a {kind.__name__}: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"{path} can't be read ({error.strerror}): the checkpoint is not complete") from error
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON ({error}): copy or download it again") from error
    if not isinstance(content, dict):
        raise InvalidInput(f"{path} holds a {type(content).__name__}, expected an object")
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _save_tensors(module: nn.Module, path: Path, dtype: torch.dtype) -> None:
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in module.state_dict().items()}
    temporary = path.with_name(path.name + ".part")
    save_file(tensors, temporary)
    temporary.replace(path)
