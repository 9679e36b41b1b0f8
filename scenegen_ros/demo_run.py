"""One generation over real topics: camera, generation server and node as processes, a goal, and what came out.

Knows nothing about what the camera shows or how the result is judged.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from ament_index_python.packages import get_package_share_directory
from tqdm import tqdm

from scenegen.glb import mesh_from_glb
from scenegen.scene import Asset, InvalidInput, PlacedObject
from scenegen_ros.conversions import read_pose
from scenegen_ros.demo_operator import NoScene, Operator, Stages, local_path, private_ros
from scenegen_ros.demo_processes import Processes, ProcessFailed, leave_in_order_on_signals, peak_rss_mb
from scenegen_ros.msg import SceneObject

Value = str | int | float | bool


@dataclass(frozen=True)
class Outcome:
    """What came out. objects: as a subscriber of the scene's topic gets them. cameras: of the views used, the first of
    them decided the query asset: {"width", "height", "intrinsics", "T_world_camera"}. seconds: per stage.
    peak_rss_mb: per process.
    """

    objects: tuple[PlacedObject, ...]
    cameras: Sequence[Mapping[str, Any]]
    seconds: Mapping[str, float]
    generation_s: float
    peak_rss_mb: Mapping[str, float]


class Reporter:
    """Says what is going on: a bar at a terminal, else a line for each stage."""

    def __init__(self) -> None:
        self._since_s = time.monotonic()
        self._stage = ""
        self._bar = tqdm(
            total=1.0,
            desc="starting",
            file=sys.stdout,
            disable=not sys.stdout.isatty(),
            bar_format="{desc:<22} {percentage:3.0f}% |{bar:40}| {elapsed}",
        )

    def __call__(self, stage: str, progress: float) -> None:
        """Takes the stage at work and the share of the job that is done, 0 to 1."""
        if self._bar.disable and stage != self._stage:
            print(f"{time.monotonic() - self._since_s:6.1f} s  {stage}", flush=True)
        self._stage = stage
        self._bar.set_description_str(stage, refresh=False)
        self._bar.update(progress - self._bar.n)

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()


def generate(
    out: Path,
    *,
    weights: str,
    camera: Mapping[str, Value],
    node: Mapping[str, Value],
    ids: Sequence[int] = (),
    views: int = 1,
    seed: int = 42,
) -> Outcome:
    """Starts everything, sends the goal (ids, views, seed), copies scene.glb to out, and ends everything.

    camera, node: parameters of the simulated camera and of the scenegen node. Logs lie in out/logs; what an earlier run
    left in out is removed first. ProcessFailed or NoScene say what went wrong.
    """
    started_s = time.monotonic()
    for earlier in ("scene.glb", "preview.png", "report.json"):
        (out / earlier).unlink(missing_ok=True)
    private_ros(_transport_profile())
    with (
        tempfile.TemporaryDirectory(prefix="scenegen_") as temporary,
        Processes(out / "logs") as processes,
        Reporter() as reporter,
    ):
        socket = Path(temporary) / "server.sock"
        reporter("starting", 0.0)
        processes.start("server", "scenegen.cli", "serve", "--unix", str(socket), "--weights", weights)
        processes.start("camera", "scenegen_ros.simulated_camera", *_parameters(camera))
        own = {"server": f"unix:{socket}", "output_dir": temporary}
        processes.start("node", "scenegen_ros.node", *_parameters(own | dict(node)))
        with Operator(processes.check) as operator:
            operator.bring_up()
            operator.wait_until_ready()
            start_s = time.monotonic() - started_s
            stages = Stages(reporter)
            scene = operator.generate(ids, views, seed, stages)
        reporter("done", 1.0)
        memory = processes.peak_rss_mb() | {"demo": peak_rss_mb(os.getpid())}
        shutil.copyfile(local_path(scene.uri), out / "scene.glb")
        described = json.loads((local_path(scene.uri).parent / "scene.json").read_bytes())
        return Outcome(
            tuple(_object(message) for message in scene.objects),
            described["views"],
            {"starting": start_s} | stages.seconds | described["seconds"],
            sum(described["seconds"].values()),
            memory,
        )


def told(run: Callable[[], None]) -> int:
    """Runs it to its end, however it ends. Returns 0, 1 when it failed and has been told why, 130 when interrupted."""
    leave_in_order_on_signals()
    try:
        run()
    except (InvalidInput, NoScene, ProcessFailed) as error:
        print(f"No scene: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _transport_profile() -> Path:
    """The shipped profile of Fast DDS: in the source tree, or where the package is installed."""
    here = Path(__file__).resolve().parents[1] / "config" / "fastdds.xml"
    return here if here.exists() else Path(get_package_share_directory("scenegen_ros")) / "config" / "fastdds.xml"


def _parameters(values: Mapping[str, Value]) -> list[str]:
    """Command line that gives a node its parameters: JSON is YAML."""
    return ["--ros-args", *(word for name, value in values.items() for word in ("-p", f"{name}:={json.dumps(value)}"))]


def _object(message: SceneObject) -> PlacedObject:
    path = local_path(message.mesh_uri)
    return PlacedObject(
        id=message.id,
        label=message.label,
        asset=Asset(message.id, message.label, mesh_from_glb(path.read_bytes(), str(path)), message.detail),
        T_world_object=read_pose(message.pose.pose),
        scale_m=message.scale,
        size_m=np.array([message.size.x, message.size.y, message.size.z]),
        covariance=np.asarray(message.pose.covariance).reshape(6, 6),
        confidence=message.confidence,
        residual_m=message.residual,
        metric=message.metric,
    )
