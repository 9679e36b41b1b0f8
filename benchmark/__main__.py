"""`make benchmark`: runs every measurement, prints one table, writes docs/benchmark.md and docs/benchmark.png.

--quick runs everything briefly, to see that it works, and writes nothing. Placement has a command of its own:
`python -m benchmark.placement`.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from datetime import date
from pathlib import Path

from benchmark import export, ingest, latency, latents, meshing, sampling, texture
from benchmark.report import Section, draw, markdown, table
from scenegen_ros.demo_operator import NoScene
from scenegen_ros.demo_processes import ProcessFailed, leave_in_order_on_signals

_DOCS = Path(__file__).resolve().parents[1] / "docs"


def machine() -> list[tuple[str, str]]:
    """What the figures were measured on, and how busy it was before."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").open() if line.startswith("model name")),
        platform.machine(),
    )
    return [
        ("machine", f"{cpu}, {os.cpu_count()} cores"),
        ("software", f"{platform.system()}, Python {platform.python_version()}"),
        ("date", date.today().isoformat()),
        ("load before", f"{os.getloadavg()[0]:.1f}"),
    ]


def main() -> int:
    """Runs it all. Returns 0, or 1 when a process failed, which has then been told."""
    parser = argparse.ArgumentParser(prog="python -m benchmark", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="briefly, and write nothing")
    quick: bool = parser.parse_args().quick
    leave_in_order_on_signals()
    about = machine()
    if os.getloadavg()[0] > 0.5 * (os.cpu_count() or 1):
        print(f"This machine is busy (load {os.getloadavg()[0]:.1f}): the figures will be worse than it can do.")
    try:
        print("ingest ...", flush=True)
        ingested = ingest.run(2.0 if quick else 10.0)
        print("latency ...", flush=True)
        delayed = latency.run(2 if quick else 10)
    except (NoScene, ProcessFailed) as error:
        print(f"No figures: {error}", file=sys.stderr)
        return 1
    print("sampling ...", flush=True)
    compared = sampling.run(1, [1]) if quick else sampling.run(3)
    print("meshing ...", flush=True)
    meshes = meshing.rows(64, repeats=1) if quick else meshing.rows()
    print("textures ...", flush=True)
    textures = texture.run(quick)
    print("structured latents ...", flush=True)
    structured = latents.rows(1, steps=2) if quick else latents.rows()
    print("exports ...", flush=True)
    exports = export.rows(1, cut=False) if quick else export.rows()
    sections = [
        Section("Ingest of 1920x1080 RGB, masks (16UC1) and depth (32FC1)", ingested.rows()),
        Section("Trigger to published scene, without generation", delayed.rows()),
        Section("Structure sampling with exact savings", [comparison.row() for comparison in compared]),
        Section("Structured latents", structured),
        Section("Meshes", meshes),
        Section("Textures, each way on the same object", textures),
        Section("Exports", exports),
        Section("Measured on", about),
    ]
    print("\n" + table(sections))
    if not quick:
        draw(_DOCS / "benchmark.png", delayed.stage_medians(), compared)
        (_DOCS / "benchmark.md").write_text(markdown(sections))
        print("\nwritten: docs/benchmark.md, docs/benchmark.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
