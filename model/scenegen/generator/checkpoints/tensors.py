"""Tensors on disk: safetensors files read strictly into modules, and written.

A tensor that is missing, too many or of another shape is an error that names it. Files are mapped into memory, so only
what is asked for is read. Nothing is unpickled. Knows nothing about which file holds which model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from scenegen.scene import InvalidInput

PICKLES = (".pt", ".pth")
SHOWN = 8


@dataclass(frozen=True)
class Source:
    """Where one tensor of a module is stored: under a name, as part `index` of `parts` equal parts of its rows."""

    name: str
    index: int = 0
    parts: int = 1

    def shape(self, wanted: Sequence[int]) -> list[int]:
        """The shape that the stored tensor must have."""
        return [wanted[0] * self.parts, *wanted[1:]] if self.parts > 1 else list(wanted)


def load_weights(
    module: nn.Module,
    path: Path,
    *,
    sources: Mapping[str, Source] | None = None,
    ignored: Sequence[str] = (),
    device: str | torch.device = "cpu",
) -> None:
    """Give a module the tensors of a safetensors file, on a device, cast into the dtypes that the module has.

    sources: for tensors stored otherwise than under their own names; others keep theirs. ignored: beginnings of names
    of stored tensors that are not wanted. The module's own parameters are replaced: they may be on the meta device.
    Raises InvalidInput naming the file and every tensor that is missing, not expected, or of another shape or kind.
    """
    expected = module.state_dict()
    places = {name: (sources or {}).get(name, Source(name)) for name in expected}
    with opened(path) as stored:
        names = [name for name in stored.keys() if not name.startswith(tuple(ignored))]  # noqa: SIM118
        slices = {name: stored.get_slice(name) for name in names}
        wanted = {place.name: place.shape(expected[name].shape) for name, place in places.items()}
        troubles = differences(
            wanted,
            {name: list(part.get_shape()) for name, part in slices.items()},
            {name: part.get_dtype() for name, part in slices.items()},
        )
        if troubles:
            raise InvalidInput(
                f"{path} does not fit {type(module).__name__}: {listed(troubles)}. The .json beside it must describe "
                "the same model as the tensors"
            )
        values: dict[str, Tensor] = {}
        for name, place in places.items():
            value = stored.get_tensor(place.name)
            if place.parts > 1:
                value = value.chunk(place.parts)[place.index]
            values[name] = value.to(device, expected[name].dtype, copy=True)
        module.load_state_dict(values, strict=True, assign=True)


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Names and shapes of all tensors in a safetensors file. Raises InvalidInput when it can't be read."""
    with opened(path) as stored:
        return {name: list(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118


def differences(
    expected: Mapping[str, Sequence[int]], shapes: Mapping[str, Sequence[int]], kinds: Mapping[str, str] | None = None
) -> list[str]:
    """What is wrong with stored tensors, one line each. kinds: their dtypes, where only floating point will do."""
    troubles = [f"{name} is missing (expected {list(shape)})" for name, shape in expected.items() if name not in shapes]
    for name, shape in shapes.items():
        if name not in expected:
            troubles.append(f"{name} {list(shape)} is not part of the model")
        elif list(shape) != list(expected[name]):
            troubles.append(f"{name} is {list(shape)}, expected {list(expected[name])}")
        elif kinds is not None and not kinds[name].startswith(("F", "BF")):
            troubles.append(f"{name} holds {kinds[name]} values, expected floating point")
    return troubles


def listed(troubles: Sequence[str]) -> str:
    """The first of many troubles, and how many more there are."""
    more = f"; and {len(troubles) - SHOWN} more" if len(troubles) > SHOWN else ""
    return "; ".join(troubles[:SHOWN]) + more


def require_safetensors(path: Path) -> None:
    """Raise InvalidInput when a file is not there, saying what to do when there is a pickle in its place."""
    if path.is_file():
        return
    for suffix in PICKLES:
        pickled = path.with_suffix(suffix)
        if pickled.is_file():
            raise InvalidInput(
                f"{pickled} is a pickle, which can run code when it is opened: only safetensors are read. Convert it, "
                f"in a process of its own, with: scenegen convert {pickled}"
            )
    raise InvalidInput(f"{path} is missing: the checkpoint is not complete")


@contextmanager
def opened(path: Path) -> Iterator[safe_open]:
    """A safetensors file, mapped into memory. Raises InvalidInput when it is missing, a pickle or damaged."""
    require_safetensors(path)
    try:
        with safe_open(path, framework="pt") as stored:
            yield stored
    except (SafetensorError, OSError) as error:
        raise InvalidInput(f"{path} is damaged or cut short ({error}): copy or download it again") from error


def save_weights(module: nn.Module, path: Path, dtype: torch.dtype) -> None:
    """Write a module's tensors, the whole file or none of it."""
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in module.state_dict().items()}
    temporary = path.with_name(path.name + ".part")
    save_file(tensors, temporary)
    temporary.replace(path)


@contextmanager
def parameters_without_memory() -> Iterator[None]:
    """Modules built inside have parameters without values, until they are loaded; buffers are as always.

    Filling a thousand million parameters at random, to overwrite them at once, takes longer than reading them.
    """
    register = nn.Module.register_parameter

    def without_memory(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = without_memory  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
