"""`scenegen selftest --full-size`: one scene at the published size with random weights: does it run, and what it takes.

The checkpoint is written outside the source tree, loaded as any other, used for one scene, and deleted. What is made
means nothing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from scenegen.scene import InvalidInput, Scene
from scenegen.synthetic import make_scene
from scenegen.synthetic.dataset import view_of_all

NEEDED_BYTES = 7e9
SCRATCH = Path("/var/tmp")
"""Where big scratch files go: unlike /tmp, it is not often in memory."""


@dataclass(frozen=True)
class Stage:
    """What one stage took: seconds, and the most bytes of memory at any moment of it."""

    name: str
    seconds: float
    peak_bytes: int


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = commands.add_parser("selftest", help="run one scene at the published size with random weights")
    p.add_argument("--full-size", action="store_true", required=True, help="about 7 GB of disk, 16 GB of memory")
    p.add_argument("--assets", type=int, default=1, help="default: 1")
    p.add_argument("--steps", type=int, default=1, help="of both samplers (default: 1; published: 25)")
    p.add_argument("--detail", choices=["coarse", "textured"], default="textured", help="default: textured")
    p.add_argument("--device", default="cpu", help="cpu, cuda or cuda:0 ... (default: cpu)")
    p.add_argument("--memory", choices=["all", "low"], default="low")
    p.add_argument("--mode", choices=["exact", "fast"], default="exact")
    p.add_argument("--folder", type=Path, help="keep the checkpoint here, and use it again if it is here already")
    p.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from scenegen.generator.checkpoints.random_weights import published_models, write_random_checkpoint

    if args.assets < 1 or args.steps < 1:
        raise InvalidInput(f"--assets {args.assets}, --steps {args.steps}: both must be 1 or more")
    folder = args.folder or Path(
        tempfile.mkdtemp(prefix="scenegen-selftest-", dir=SCRATCH if SCRATCH.is_dir() else None)
    )
    try:
        if not (folder / "pipeline.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(folder).free < NEEDED_BYTES:
                raise InvalidInput(f"{folder} needs {NEEDED_BYTES / 1e9:.0f} GB free: say --folder")
            print(f"writing random weights into {folder}", file=sys.stderr)
            write_random_checkpoint(folder, published_models(), args.steps)
        scene, stages = measure(
            folder,
            args.assets,
            args.device,
            args.memory,
            args.detail,
            args.mode,
            lambda name: print(name, file=sys.stderr),
        )
    finally:
        if args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(report(scene, stages, args.device)))
    return 0


def measure(
    folder: Path,
    assets: int,
    device: str,
    memory: Literal["all", "low"],
    detail: Literal["coarse", "textured"],
    mode: Literal["exact", "fast"] = "exact",
    on_stage: Callable[[str], None] = lambda name: None,
) -> tuple[Scene, list[Stage]]:
    """Load a checkpoint the ordinary way and generate one synthetic scene of so many assets; what each stage took.

    on_stage: hears the name of each stage when it begins.
    """
    from scenegen.generator.pipeline import SceneGen

    with _Watch(device, on_stage) as watch:
        watch.begin("loading")
        generator = SceneGen.from_pretrained(folder, device=device, memory=memory, mode=mode)
        view = view_of_all(make_scene(0, count=(assets, assets)))
        scene = generator.generate([view], detail=detail, on_progress=lambda progress: watch.begin(progress.stage))
    return scene, watch.stages


def report(scene: Scene, stages: list[Stage], device: str) -> list[str]:
    """Lines that say what came out and what it took."""
    kind = "GPU memory" if device.startswith("cuda") else "memory"
    lines = [f"{'stage':<14} {'seconds':>9}  peak {kind}"]
    lines += [f"{stage.name:<14} {stage.seconds:>9.1f}  {stage.peak_bytes / 1e9:.2f} GB" for stage in stages]
    total, peak = sum(stage.seconds for stage in stages), max(stage.peak_bytes for stage in stages)
    lines.append(f"{'all':<14} {total:>9.1f}  {peak / 1e9:.2f} GB")
    made = [f"{asset.label} {asset.detail}, {len(asset.mesh.faces)} faces" for asset in scene.assets]
    return [*lines, f"{len(made)} assets of random weights: {'; '.join(made)}"]


@dataclass
class _Watch:
    """Looks at the memory in use twenty times a second, and keeps the most of each stage."""

    device: str
    on_stage: Callable[[str], None]
    stages: list[Stage] = field(default_factory=list)
    _name: str = ""
    _began: float = 0.0
    _peak: int = 0

    def __enter__(self) -> _Watch:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.begin("")
        self._over.set()
        self._thread.join()

    def begin(self, name: str) -> None:
        """A stage begins, which ends the one before; the same name again changes nothing."""
        if name == self._name:
            return
        now = time.perf_counter()
        if self._name:
            self.stages.append(Stage(self._name, now - self._began, max(self._peak, memory_in_use(self.device))))
        self._name, self._began, self._peak = name, now, 0
        if name:
            self.on_stage(name)

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self._peak = max(self._peak, memory_in_use(self.device))


def memory_in_use(device: str) -> int:
    """Bytes: of tensors on a GPU; of this process on a processor, without what the system can take back."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.memory_allocated(device))
    # not the pages of mapped files
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024
