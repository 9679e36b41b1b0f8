"""`scenegen convert`: tensors come through unchanged, and a pickle that does anything else is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scenegen.commands.convert import convert
from scenegen.scene import InvalidInput


class Harmful:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("key", [None, "state_dict"])
def test_tensors_come_through_unchanged(tmp_path: Path, key: str | None) -> None:
    whole = torch.randn(6, 4)
    tensors = {"a.weight": whole, "a.part": whole[:2], "b": torch.arange(3).half()}
    torch.save(tensors if key is None else {key: tensors, "step": 3}, tmp_path / "model.pt")
    out = convert(tmp_path / "model.pt")
    assert out == tmp_path / "model.safetensors"
    stored = load_file(out)
    assert stored.keys() == tensors.keys()
    assert all(stored[name].dtype == value.dtype and (stored[name] == value).all() for name, value in tensors.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "model.safetensors"]


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2), "b": Harmful(tmp_path / "harm")}, tmp_path / "model.pth")
    with pytest.raises(InvalidInput, match="torch refused it"):
        convert(tmp_path / "model.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_a_file_without_tensors_or_with_a_target_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "model.pt")
    with pytest.raises(InvalidInput, match="something else than tensors"):
        convert(tmp_path / "model.pt")
    (tmp_path / "there.safetensors").touch()
    with pytest.raises(InvalidInput, match="there already"):
        convert(tmp_path / "model.pt", tmp_path / "there.safetensors")
    with pytest.raises(InvalidInput, match="no file that ends in"):
        convert(tmp_path / "model.ckpt")
