"""benchmark.placement: what it writes, and that a seed says everything."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmark import placement, placement_baselines, placement_scenes


def test_a_row_has_every_figure_and_is_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for name in ("a.json", "b.json"):
        arguments = ["--seed", "9002", "--scenes", "1", "--views", "1", "--shapes", "both", "--gravity", "yes"]
        monkeypatch.setattr(sys, "argv", ["placement", *arguments, "--json", str(tmp_path / name)])
        placement.main()
        rows.append(json.loads((tmp_path / name).read_text()))
    assert "position_m" in capsys.readouterr().out
    for row in (rows[0], rows[0]["scaled_icp"], rows[0]["cpd"]):
        for key in ("position_m", "rotation_deg", "size_ratio", "add_s"):
            assert row[key]["p95"] >= row[key]["median"] >= 0
        assert row["size_ratio"]["median"] >= 1 and 0 <= row["success"] <= 1 and row["seconds"] > 0
    assert rows[0]["success"] == 1 and rows[0]["gravity"] and rows[0]["shapes"] == "both"
    for part in ("position_m", "rotation_deg", "size_ratio", "add_s"):
        for first, second in ((rows[0], rows[1]), *((rows[0][m], rows[1][m]) for m in ("scaled_icp", "cpd"))):
            assert first[part] == pytest.approx(second[part], rel=0.01)  # sums differ with how memory is aligned


def test_views_add_evidence_and_change_nothing_else() -> None:
    one, two, four = (placement_scenes.make_case(9002, views, "hard", (2, 5)) for views in (1, 2, 4))
    assert one is not None and two is not None and four is not None
    assert one.visible == two.visible == four.visible
    for fewer, more in ((one.views, two.views), (two.views, four.views[::2])):
        for a, b in zip(fewer, more, strict=False):
            assert (a.masks == b.masks).all() and np.array_equal(a.depth_m, b.depth_m, equal_nan=True)
    for case in (two, four):
        for a, b in zip(one.scene.placements, case.scene.placements, strict=True):
            assert np.array_equal(a.translation, b.translation) and a.scale == b.scale
        for a, b in zip(one.scene.assets, case.scene.assets, strict=True):
            assert np.array_equal(a.mesh.vertices, b.mesh.vertices)


@pytest.mark.parametrize("method", [placement_baselines.scaled_icp, placement_baselines.cpd])
def test_baselines_find_a_small_motion_with_scale(method: object) -> None:
    random = np.random.default_rng(0)
    model = random.uniform(-1, 1, (1500, 3)) * [1.0, 0.6, 0.3]
    model[:500, 2] = 0.3
    c, s = np.cos(0.2), np.sin(0.2)
    R = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    points = 0.4 * model @ R.T + [0.5, 0.2, 1.0]
    T = method(model, points, random)  # type: ignore[operator]
    assert np.linalg.norm(T[:3, :3], axis=0) == pytest.approx([0.4] * 3, rel=0.1)
    assert T[:3, 3] == pytest.approx([0.5, 0.2, 1.0], abs=0.04)
    assert T[:3, :3] / 0.4 == pytest.approx(R, abs=0.1)
