"""A GPU that is not there: tensors that say they are on "cuda" and are worked on by the processor.

As on a real one, an operation between a tensor there and one that is not fails, and so does numpy of a tensor there.
Knows nothing about kernels: what only some dtypes or sizes can do on a GPU is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
GPU = torch.device("cuda", 0)

_BETWEEN_DEVICES = {aten.copy_.default, aten._to_copy.default}
_INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
"""Indices may be in the processor's memory."""


class OnGpu(Tensor):
    """A tensor there: `held` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGpu:
        made: OnGpu = Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=GPU
        )
        made.held = held
        return made

    # What torch would ask the device itself for.
    def __getitem__(self, index: Any) -> OnGpu:
        return OnGpu(self.held[_held_all(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, Tensor) and not isinstance(value, OnGpu) and value.ndim:
            raise RuntimeError("what is set is on the CPU, the tensor is on the GPU")
        self.held[_held_all(index)] = _held(value)

    def contiguous(self, **_: Any) -> Tensor:
        return self.clone(memory_format=torch.contiguous_format)

    def nonzero(self) -> OnGpu:  # type: ignore[override]
        return OnGpu(self.held.nonzero())

    def new_tensor(self, data: Any) -> OnGpu:  # type: ignore[override]
        return OnGpu(self.held.new_tensor(data))

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert a tensor on the GPU to numpy: Tensor.cpu() first")

    def tolist(self) -> Any:
        return self.held.tolist()

    def item(self) -> Any:
        return self.held.item()

    def __bool__(self) -> bool:
        return bool(self.held)

    def __int__(self) -> int:
        return int(self.held)

    def __index__(self) -> int:
        return self.held.__index__()

    def __float__(self) -> float:
        return float(self.held)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Sees what makes tensors out of nothing, too."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    if func is aten._fused_sdp_choice.default:
        return 0  # the formula, whose operations are seen one by one
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    there = [value for value in tensors if isinstance(value, OnGpu)]
    if there and func not in _BETWEEN_DEVICES:
        _require_one_place(func, args, tensors)
    target = kwargs.get("device")
    on_gpu = bool(there) if target is None else torch.device(target).type == "cuda"
    own_args, own_kwargs = _held_all((args, dict(kwargs)))
    result = func(*own_args, **own_kwargs)
    if _in_place(func):
        return args[0]
    return tree_map(_there, result) if on_gpu else result


def _require_one_place(func: Any, args: tuple[Any, ...], tensors: list[Tensor]) -> None:
    considered = [args[0]] if func in _INDEXED else tensors
    away = [value for value in considered if not isinstance(value, OnGpu) and (value.ndim or func in _INDEXED)]
    if away:
        raise RuntimeError(f"{func}: {[tuple(value.shape) for value in away]} are on the CPU, others on the GPU")


def _in_place(func: Any) -> bool:
    first = func._schema.arguments[:1]
    return bool(first and first[0].alias_info is not None and first[0].alias_info.is_write)


def _held(value: Any) -> Any:
    if isinstance(value, OnGpu):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == "cuda" else value


def _held_all(values: Any) -> Any:
    return tree_map(_held, values)


def _there(value: Any) -> Any:
    return OnGpu(value) if isinstance(value, Tensor) and not isinstance(value, OnGpu) else value


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Inside, device "cuda" can be used."""
    with (
        patch.object(torch.cuda, "_lazy_init", lambda: None),
        patch.object(torch.cuda, "current_device", lambda: 0),
        patch.object(torch.cuda, "synchronize", lambda *_: None),
        # The tensors of an inference mode can't be wrapped; without gradients is enough.
        patch.object(torch.inference_mode, "__enter__", lambda *_: None),
        patch.object(torch.inference_mode, "__exit__", lambda *_: None),
        torch.no_grad(),
        _Mode(),
    ):
        yield
