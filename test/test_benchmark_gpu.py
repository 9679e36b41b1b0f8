"""The GPU benchmark: its count of operations, and that it runs, at the smallest size, without a GPU."""

from __future__ import annotations

import pytest
import torch

from benchmark import gpu
from benchmark.cost import operations
from scenegen.generator.checkpoints import SamplerSettings
from scenegen.generator.manifests import manifests
from scenegen.generator.structure.flow import SparseStructureFlowModel


@pytest.mark.parametrize(
    ("assets", "counted", "plain"), [(1, 395e12, 510e12), (4, 2453e12, 2911e12), (8, 7235e12, 8150e12)]
)
def test_operations_are_those_of_the_cost_page(assets: int, counted: float, plain: float) -> None:
    with torch.device("meta"):
        flow = SparseStructureFlowModel(**manifests()["ss_flow_scenegen"].args)
    assert operations(flow, 6870, assets, SamplerSettings()) == pytest.approx(counted, rel=0.01)
    assert operations(flow, 6870, assets, SamplerSettings(), savings=False) == pytest.approx(plain, rel=0.01)
    fast = operations(flow, 6870, assets, SamplerSettings("ab2", steps=10, rescale_t=2.0))
    assert fast == pytest.approx(counted * 17 / 44, rel=0.03)


def test_it_runs_without_a_gpu_at_the_smallest_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu", "--size", "tiny", "--assets", "2", "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert "2 asset(s), exact, " in printed and "2 asset(s), fast, " in printed
    assert printed.count("structure's floor") == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_it_says_that_it_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 1
    assert "needs an NVIDIA GPU with CUDA" in capsys.readouterr().err
