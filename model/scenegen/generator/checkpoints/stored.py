"""Models whose weights are on disk: in memory always, or only while they work.

Knows nothing about which models there are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from scenegen.generator.checkpoints.tensors import Source, load_weights

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Stored(Generic[Model]):
    """A model that has its sizes but no values, and where these are.

    part: the part of the model that is stored. sources, ignored: see `load_weights`.
    """

    model: Model
    part: nn.Module
    path: Path
    sources: Mapping[str, Source] = field(default_factory=dict)
    ignored: Sequence[str] = ()

    def load(self, device: str | torch.device = "cpu") -> Model:
        """Read the values; the model, on a device and ready to work. Raises InvalidInput as `load_weights` does."""
        load_weights(self.part, self.path, sources=self.sources, ignored=self.ignored, device=device)
        return self.model.eval().to(device)

    def drop(self) -> None:
        """Let go of the values again; the model keeps its sizes and its buffers."""
        for module in self.model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    empty = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
                    module._parameters[name] = empty


class Memory:
    """Decides when models have their weights: always, or (low) only inside `working`, read from disk each time."""

    def __init__(
        self, stored: Sequence[Stored[Any]] = (), device: str | torch.device = "cpu", low: bool = False
    ) -> None:
        self._device = torch.device(device)
        self._absent = {id(item.model): item for item in stored} if low else {}
        for item in stored if not low else ():
            item.load(self._device)

    def device_memory(self) -> tuple[int, int] | None:
        """Bytes in use by anybody and in all on a GPU; None on a CPU."""
        if self._device.type != "cuda":
            return None
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free, total

    @contextmanager
    def working(self, *models: nn.Module) -> Iterator[None]:
        """The models have their weights inside, on the device."""
        with ExitStack() as stack:
            for model in models:
                item = self._absent.get(id(model))
                if item is not None:
                    stack.callback(_give_back, self._device)
                    stack.callback(item.drop)
                    item.load(self._device)
            yield


def _give_back(device: torch.device) -> None:
    """Hand free memory back to the system or the GPU: allocators keep it, weights of one model beside another's."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
