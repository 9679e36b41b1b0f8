"""Our sparse networks against stored outputs of the published ones: the smallest case of each component."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conformance_adapter import build_model
from safetensors.torch import load_file
from torch import Tensor

CASES = sorted((Path(__file__).parent / "golden" / "latents").glob("*.json"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_golden_case(path: Path) -> None:
    tensors = load_file(path.with_suffix(".safetensors"))

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    model = build_model(json.loads(path.read_text())["config"]).eval()
    core = model.core
    computed = {name: buffer.clone() for name, buffer in core.named_buffers()}
    core.load_state_dict(part("weights."), strict=True)
    for name, buffer in computed.items():
        torch.testing.assert_close(buffer, part("weights.")[name], atol=1e-6, rtol=0)
    with torch.no_grad():
        outputs = model(**part("in."))
    for name, expected in part("out.").items():
        if not name.startswith("aux_"):
            # Relative to the largest value, as sums of many terms err.
            atol = 2e-5 + 1e-4 * expected.abs().max().item() if expected.is_floating_point() else 0
            torch.testing.assert_close(outputs[name], expected, atol=atol, rtol=0, check_dtype=False)
