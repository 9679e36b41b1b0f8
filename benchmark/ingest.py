"""What it costs the node to listen to a 1920x1080 camera with masks and depth at 30 Hz, and what it loses.

Node and camera are processes of their own, on the shipped Fast DDS profile; no server runs, nothing is generated.
"""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmark.camera import RATE_HZ, STEP_M
from benchmark.observer import PROFILE, Children, Observer
from scenegen_ros.demo_operator import private_ros
from scenegen_ros.parameters import Parameters

_MAX_VIEWS = 16


@dataclass(frozen=True)
class Ingest:
    """published_hz: what the camera managed. cpu_share: of one core. heard: messages per topic, of frames published.

    usable: frames whose image, masks, depth and camera info met, with TF at their stamp. kept: views; due: as the
    camera's motion asks for.
    """

    frames: int
    published_hz: float
    cpu_share: float
    heard: dict[str, int]
    usable: int
    kept: int
    due: int
    node_peak_rss_mb: float

    def rows(self) -> list[tuple[str, str]]:
        """For the table."""
        heard = ", ".join(f"{topic} {count}" for topic, count in self.heard.items())
        return [
            ("published", f"{self.frames} frames at {self.published_hz:.1f} Hz"),
            ("messages heard", heard),
            ("frames lost", f"{self.frames - self.usable} of {self.frames}"),
            ("views kept", f"{self.kept} of {self.due} due"),
            ("node's CPU share", f"{self.cpu_share:.0%} of one core"),
            ("node's peak memory", f"{self.node_peak_rss_mb:.0f} MB"),
        ]


def run(seconds: float) -> Ingest:
    """Listens for so long. NoScene or ProcessFailed when a process does not come up or stay up."""
    frames = round(seconds * RATE_HZ)
    private_ros(PROFILE)
    with tempfile.TemporaryDirectory(prefix="scenegen_") as temporary, Children(Path(temporary) / "logs") as children:
        parameters = {
            "server": f"unix:{temporary}/nobody.sock",
            "output_dir": temporary,
            "depth": "required",
            "max_views": _MAX_VIEWS,
        }
        words = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
        children.start("node", "scenegen_ros.node", "--ros-args", *words)
        with Observer(children.check) as observer:
            observer.bring_up()
            result = Path(temporary) / "camera.json"
            children.start("camera", "benchmark.camera", str(frames), str(children.pid("node")), str(result))
            observer.wait(result.exists, "the camera's last frame")
            counters = observer.counters()
            pairing = counters["pairing"]
        camera = json.loads(result.read_text())
        return Ingest(
            frames=frames,
            published_hz=frames / camera["seconds"],
            cpu_share=camera["watched_cpu_s"] / camera["seconds"],
            heard={topic: int(counters[topic]["messages"]) for topic in ("image", "masks", "depth", "camera_info")},
            usable=int(pairing["sets"]) - int(pairing.get("no TF at the stamp", 0)),
            kept=int(counters["views"]["kept"]),
            due=min((frames - 1) // math.ceil(Parameters().min_translation_m / STEP_M) + 1, _MAX_VIEWS),
            node_peak_rss_mb=children.peak_rss_mb()["node"],
        )
