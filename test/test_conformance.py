"""Our modules against stored outputs of the published ones: the smallest case of each component."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance_adapter import build_model
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(GOLDEN.glob("structure/*.json")) + sorted(GOLDEN.glob("vggt/*.json"))


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def case_weights(case: dict[str, Any], path: Path) -> dict[str, Tensor]:
    weights = part(load_file(path.with_suffix(".safetensors")), "weights.")
    if source := case.get("weights_from"):
        borrowed = part(load_file(path.with_name(f"{source}.safetensors")), "weights.")
        weights |= {case["weights_prefix"] + name: value for name, value in borrowed.items()}
    return weights


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_golden_case(path: Path) -> None:
    case = json.loads(path.read_text())
    tensors = load_file(path.with_suffix(".safetensors"))
    inputs, expected = part(tensors, "in."), part(tensors, "out.")
    model = build_model(case["config"])
    if weights := case_weights(case, path):
        computed = {name: buffer.clone() for name, buffer in model.named_buffers()}
        model.load_state_dict(weights, strict=True)
        if not case.get("skip_buffer_check"):
            for name in computed.keys() & weights.keys():
                torch.testing.assert_close(computed[name], weights[name], atol=1e-6, rtol=0)
    call = case["call"]
    model.train(call.get("mode") == "train")
    with torch.no_grad():
        if call.get("kwargs_from_inputs"):
            outputs = model(**inputs)
        else:
            result = model(*(inputs[name] for name in call["args"]), **call.get("kwargs", {}))
            outputs = dict(zip(call["returns"], result if isinstance(result, tuple) else (result,), strict=True))
    tolerance = {name: case["tolerance"][name] for name in ("atol", "rtol")}
    for name, value in expected.items():
        if name not in case.get("optional_outputs", []):
            torch.testing.assert_close(
                outputs[name], value, **tolerance, check_dtype=False, msg=lambda m, n=name: f"{n}: {m}"
            )
