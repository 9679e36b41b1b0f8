"""From a goal to the scene on its topic, without the time of generation: everything else that a job has to do.

Camera, server and node are processes of their own. The server answers at once with the true scene, so that meshes and
views, and with them placing and saving, are of real size.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmark.observer import PROFILE, Children, Observer
from scenegen_ros.demo_operator import Stages, private_ros

_SEED = 1
_VIEWS = 4


@dataclass(frozen=True)
class Latency:
    """Seconds of each run, from sending the goal to having its result and the scene; of its stages by name."""

    seconds: Sequence[float]
    stages: Sequence[Mapping[str, float]]
    objects: int

    def stage_medians(self) -> dict[str, float]:
        """Stage -> median seconds, in the order of the work; "goal and delivery" is what is in no stage."""
        names = dict.fromkeys(name for stages in self.stages for name in stages)
        medians = {name: median(stages.get(name, 0.0) for stages in self.stages) for name in names}
        rest = (total - sum(stages.values()) for total, stages in zip(self.seconds, self.stages, strict=True))
        return medians | {"goal and delivery": median(rest)}

    def rows(self) -> list[tuple[str, str]]:
        """For the table."""
        range_s = f"{min(self.seconds):.2f} to {max(self.seconds):.2f} s in {len(self.seconds)} runs"
        total = f"{median(self.seconds):.2f} s ({range_s}; {_VIEWS} views, {self.objects} objects)"
        return [
            ("goal to scene, median", total),
            *((f"of it {name}", f"{s * 1e3:.0f} ms") for name, s in self.stage_medians().items()),
        ]


def run(runs: int) -> Latency:
    """Sends so many goals one after another, and one before them that is not counted. NoScene or ProcessFailed."""
    private_ros(PROFILE)
    with tempfile.TemporaryDirectory(prefix="scenegen_") as temporary, Children(Path(temporary) / "logs") as children:
        address = f"unix:{temporary}/server.sock"
        children.start("server", "benchmark.fixed_server", str(_SEED), address)
        camera = ("-p", f"seed:={_SEED}", "-p", f"views:={_VIEWS}")
        children.start("camera", "scenegen_ros.simulated_camera", "--ros-args", *camera)
        node = ("-p", f"server:={address}", "-p", f"output_dir:={temporary}", "-p", f"max_views:={_VIEWS}")
        children.start("node", "scenegen_ros.node", "--ros-args", *node)
        with Observer(children.check) as observer:
            observer.bring_up()
            observer.wait_until_ready()
            seconds, stages = [], []
            for _ in range(1 + runs):
                passed = Stages(lambda stage, progress: None)
                began_s = time.monotonic()
                scene = observer.generate((), _VIEWS, _SEED, passed)
                seconds.append(time.monotonic() - began_s)
                stages.append(passed.seconds)
        return Latency(seconds[1:], stages[1:], len(scene.objects))
