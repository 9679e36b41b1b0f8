"""How far objects drift in MuJoCo, as they were placed and after settling: synthetic scenes with placement errors.

True shapes and sizes; every object is shifted by a normal error of --shift millimetres along each axis and turned by
one of --turn degrees about a random axis, as a placement against depth leaves them: floating, sinking, leaning. Each
scene is written to disk, settled and read back as an export reads it; the drift is over two simulated seconds of the
MJCF that is exported. With --folders instead, scenes that are on disk already (of `scenegen generate`, say): these are
copied, and not changed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from scipy.spatial.transform import Rotation

from scenegen.export import read_bodies
from scenegen.files import read_scene, write_scene
from scenegen.scene import Asset, Floats, PlacedObject, Placement, Scene
from scenegen.settle import Drift, Settled, drop, settle_folder
from scenegen.settle.drop import SECONDS, STILL_DEG, STILL_M
from scenegen.synthetic import make_scene

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402


@dataclass(frozen=True)
class Row:
    """One object: what settling did to it, and its drift as placed and settled."""

    scene: str
    label: str
    done: Settled
    before: Drift
    after: Drift


def synthetic_folders(root: Path, seed: int, scenes: int, shift_m: float, turn_deg: float) -> Iterator[Path]:
    """Folders of synthetic scenes whose poses are a little off."""
    for number in range(seed, seed + scenes):
        truth, random = make_scene(number), np.random.default_rng(number)
        assets, placed = [], []
        for i, (thing, T, size) in enumerate(zip(truth.objects, truth.T_world_object, truth.size_m, strict=True), 1):
            asset = Asset(i, thing.family, thing.mesh())
            axis = random.normal(size=3)
            turn = Rotation.from_rotvec(axis / np.linalg.norm(axis) * np.deg2rad(turn_deg) * random.normal())
            off = T.copy()
            off[:3, :3] = turn.as_matrix() @ T[:3, :3]
            off[:3, 3] += random.normal(size=3) * shift_m
            extents = np.asarray(asset.mesh.extents * size)
            assets.append(asset)
            placed.append(PlacedObject(i, asset.label, asset, off, float(size), extents, np.eye(6), 1.0, 0.0, True))
        scene = Scene(tuple(assets), (Placement.identity(),) * len(assets), 0)
        yield write_scene(root, scene, placed, scene_id=f"settle-{number}", frame_id="world")


def run(folders: Iterable[Path], scale_m: float | None = None, level: bool = False) -> list[Row]:
    """A row per object. Drifts of settled objects are of what an export reads back from the folder."""
    rows: list[Row] = []
    for folder in folders:
        outcome = settle_folder(folder, scale_m=scale_m, level=level)
        after = drop(read_bodies(folder, settled=True))
        labels = [body.label for body in outcome.scene.bodies]
        new = [Row(folder.name, *row) for row in zip(labels, outcome.done, outcome.before, after, strict=True)]
        for row in new:
            print(told(row), flush=True)
        rows += new
    return rows


def told(row: Row) -> str:
    """One line."""
    drifts = ", ".join(f"{1e3 * d.shift_m:7.2f} mm {d.turn_deg:6.2f} deg" for d in (row.before, row.after))
    moved = f"{1e3 * row.done.shift_m:5.1f} mm {row.done.turn_deg:5.2f} deg"
    return f"{row.scene} {row.label:<8} drift {drifts}; moved {moved} {'' if row.after.stays else '  <- drifts'}"


def summary(rows: Sequence[Row]) -> dict[str, object]:
    """Shares and percentiles; millimetres and degrees."""

    def spread(values: Iterable[float]) -> dict[str, float]:
        array = np.array(list(values))
        return {name: round(float(np.percentile(array, at)), 3) for name, at in (("median", 50), ("p95", 95))}

    def drift(drifts: Sequence[Drift]) -> dict[str, object]:
        return {
            "stay": round(float(np.mean([d.stays for d in drifts])), 4),
            "shift_mm": spread(1e3 * d.shift_m for d in drifts),
            "turn_deg": spread(d.turn_deg for d in drifts),
        }

    return {
        "scenes": len({row.scene for row in rows}),
        "objects": len(rows),
        "stay": f"under {1e3 * STILL_M:g} mm and {STILL_DEG:g} degrees in {SECONDS:g} s",
        "before": drift([row.before for row in rows]),
        "after": drift([row.after for row in rows]),
        "settling": {
            "moved_mm": spread(1e3 * row.done.shift_m for row in rows),
            "turned_deg": spread(row.done.turn_deg for row in rows),
            "penetration_before_mm": spread(1e3 * row.done.penetration_before_m for row in rows),
            "penetration_after_mm": spread(1e3 * row.done.penetration_after_m for row in rows),
            "gap_before_mm": spread(1e3 * row.done.gap_before_m for row in rows),
        },
        "drifting": [f"{row.scene} {row.label}" for row in rows if not row.after.stays],
    }


def draw(rows: Sequence[Row], path: Path) -> None:
    """Share of objects that drift no further than so much, as placed and settled."""
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    share = np.arange(1, len(rows) + 1) / len(rows)
    for name, colour in (("before", "tab:red"), ("after", "tab:blue")):
        drifts: list[Drift] = [getattr(row, name) for row in rows]
        label = f"{'as placed' if name == 'before' else 'settled'}: {np.mean([d.stays for d in drifts]):.0%} stay"
        of: tuple[Floats, Floats] = (
            np.sort([max(1e3 * d.shift_m, 1e-3) for d in drifts]),
            np.sort([max(d.turn_deg, 1e-3) for d in drifts]),
        )
        for axis, values in zip(axes, of, strict=True):
            axis.step(values, share, where="post", color=colour, label=label)
    for axis, limit, what in zip(axes, (1e3 * STILL_M, STILL_DEG), ("millimetres", "degrees"), strict=True):
        axis.axvline(limit, color="grey", linestyle=":")
        axis.set(xscale="log", xlabel=f"drift in {SECONDS:g} s of MuJoCo, {what}", ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of objects")
    axes[0].legend(loc="center", fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Run it; print the summary, and write it and the plot where that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7000, help="first scene's seed; scenes count up from it")
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--shift", type=float, default=5.0, help="millimetres along each axis (default: 5)")
    parser.add_argument("--turn", type=float, default=2.0, help="degrees (default: 2)")
    parser.add_argument("--folders", type=Path, nargs="+", help="scenes on disk, instead of synthetic ones")
    parser.add_argument("--scale", type=float, help="as for `scenegen settle`, with --folders")
    parser.add_argument("--level", action="store_true", help="as for `scenegen settle`, with --folders")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--plot", type=Path, help="where to draw it")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        if given.folders:
            about: dict[str, object] = {"folders": len(given.folders)}
            folders: Iterable[Path] = (_copied(folder, Path(root)) for folder in given.folders)
        else:
            about = {"seed": given.seed, "shift_mm": given.shift, "turn_deg": given.turn}
            folders = synthetic_folders(Path(root), given.seed, given.scenes, given.shift / 1e3, given.turn)
        rows = run(folders, given.scale, given.level)
    text = json.dumps(about | summary(rows), indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")
    if given.plot:
        draw(rows, given.plot)


def _copied(folder: Path, root: Path) -> Path:
    read_scene(folder)  # says what is wrong with it
    return Path(shutil.copytree(folder, root / folder.name))


if __name__ == "__main__":
    main()
