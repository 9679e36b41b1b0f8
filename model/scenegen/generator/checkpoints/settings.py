"""What a checkpoint's `pipeline.json` says: which models it has and how they are sampled.

The published names of samplers and parameters (spec/structure.md sections 0 and 5). Knows nothing about tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from scenegen.generator.sampling import Solver, is_guided, schedule
from scenegen.scene import InvalidInput

PIPELINE = "pipeline.json"

_GUIDANCE: Mapping[str, Mapping[str, Any]] = {
    "FlowEulerGuidanceIntervalSampler": {},
    "FlowEulerCfgSampler": {"interval": (0.0, 1.0)},
    "FlowEulerSampler": {"guidance": 0.0},
}
"""Samplers by published name, and what is fixed in each; those that also sample placements end in VGGT."""

_PARAMETERS = {
    "solver": "solver",
    "steps": "steps",
    "rescale_t": "rescale_t",
    "cfg_strength": "guidance",
    "cfg_interval": "interval",
    "placement_views": "placement_views",
    "temperature": "temperature",
}

Mode = Literal["exact", "fast"]
"""exact: as published. fast: the parameters of the sampler's own entry `fast`; `_fast` where it has none."""
_FAST_STEPS, _FAST_RESCALE_T = 0.4, 2.0
"""Measured: so many second-order steps, spaced so, end as near to where ever more would as all of Euler's do."""


@dataclass(frozen=True)
class SamplerSettings:
    """How the structure is sampled; the names are those of `sampling.sample_structure`.

    temperature: factor of the noise. At 0 a seed changes nothing: for weights that were trained for it.
    """

    solver: Solver = "euler"
    steps: int = 25
    rescale_t: float = 3.0
    guidance: float = 5.0
    interval: tuple[float, float] = (0.5, 1.0)
    placement_views: int | None = None
    temperature: float = 1.0

    @property
    def guided(self) -> list[bool]:
        """Whether each step is: those evaluate the network twice."""
        return [is_guided(t, self.guidance, self.interval) for t in schedule(self.steps, self.rescale_t)[:-1]]


def load_pipeline(folder: Path) -> dict[str, Any]:
    """The `args` of a checkpoint's `pipeline.json`. Raises InvalidInput when it is missing or not of that kind."""
    args = read_json(folder / PIPELINE).get("args")
    if not isinstance(args, dict) or not isinstance(args.get("models"), dict):
        raise InvalidInput(
            f"{folder / PIPELINE} names no models: expected {{'name', 'args': {{'models': {{role: path}}, ...}}}}"
        )
    return args


def structure_sampler(folder: Path, pipeline: Mapping[str, Any], mode: Mode = "exact") -> SamplerSettings:
    """Settings of `sparse_structure_sampler`. Raises InvalidInput for an unknown sampler or parameter."""
    return _sampler(
        folder, pipeline, "sparse_structure_sampler", {f"{name}VGGT": _GUIDANCE[name] for name in _GUIDANCE}, mode
    )


def latent_sampler(folder: Path, pipeline: Mapping[str, Any], mode: Mode = "exact") -> SamplerSettings:
    """Settings of `slat_sampler`. Raises InvalidInput for an unknown sampler or parameter."""
    return _sampler(folder, pipeline, "slat_sampler", _GUIDANCE, mode)


def latent_normalization(folder: Path, pipeline: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of `slat_normalization`. Raises InvalidInput when they do not match."""
    entry = pipeline.get("slat_normalization")
    try:
        mean, deviation = (tuple(float(value) for value in entry[key]) for key in ("mean", "std"))  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        mean = deviation = ()
    if not mean or len(mean) != len(deviation) or not all(value > 0 for value in deviation):
        raise InvalidInput(
            f"{folder / PIPELINE}: slat_normalization is {entry!r}; expected {{'mean': [...], 'std': [...]}}, "
            "one number per latent channel, std above 0"
        )
    return mean, deviation


def _sampler(
    folder: Path, pipeline: Mapping[str, Any], role: str, known: Mapping[str, Mapping[str, Any]], mode: Mode
) -> SamplerSettings:
    entry = pipeline.get(role)
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(name, str) or name not in known:
        raise InvalidInput(f"{folder / PIPELINE}: {role} {name!r} is unknown; known are {sorted(known)}")
    params = entry.get("params", {})
    try:
        settings = _settings(params, known[name])
        if mode == "fast":
            own = entry.get("fast")
            settings = _fast(settings) if own is None else _settings({**params, **own}, known[name])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(
            f"{folder / PIPELINE}: params of {name} are {params!r}, fast {entry.get('fast')!r}; expected steps (1 or "
            f"more), rescale_t (above 0), cfg_strength, cfg_interval [low, high], placement_views (1 or more, or left "
            f"out), temperature (0 or more), solver ({', '.join(get_args(Solver))})"
        ) from error
    return settings


def _settings(params: Mapping[str, Any], fixed: Mapping[str, Any]) -> SamplerSettings:
    """Raises KeyError, TypeError, ValueError or AttributeError when the parameters are no settings."""
    settings = SamplerSettings(**{_PARAMETERS[key]: value for key, value in params.items()})
    low, high = settings.interval
    settings = replace(settings, interval=(float(low), float(high)), **fixed)
    if (
        settings.steps < 1
        or settings.rescale_t <= 0
        or settings.placement_views == 0
        or not settings.temperature >= 0
        or settings.solver not in get_args(Solver)
    ):
        raise ValueError("out of range")
    return settings


def _fast(exact: SamplerSettings) -> SamplerSettings:
    rescale_t = min(_FAST_RESCALE_T, exact.rescale_t)
    return replace(exact, solver="ab2", steps=math.ceil(_FAST_STEPS * exact.steps), rescale_t=rescale_t)


def save_pipeline(folder: Path, args: Mapping[str, Any]) -> None:
    """Write `pipeline.json`. args: see `SceneGen.from_pretrained`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / PIPELINE, {"name": "SceneGen", "args": dict(args)})


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises InvalidInput naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"{path} can't be read ({error.strerror}): the checkpoint is not complete") from error
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON ({error}): copy or download it again") from error
    if not isinstance(content, dict):
        raise InvalidInput(f"{path} holds a {type(content).__name__}, expected an object")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
