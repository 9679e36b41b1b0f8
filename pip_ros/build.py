"""Builds the ROS interfaces with the ROS wheels of PyPI and installs them into a prefix, usually a virtual environment.

Knows nothing about colcon or /opt/ros: with a real ROS 2, `colcon build` does all of this.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INTERFACES = ROOT / "pip_ros" / "interfaces"
PACKAGES = (INTERFACES / "tf2_msgs", INTERFACES / "vision_msgs", ROOT)
MOVEIT = tuple(
    INTERFACES / name for name in ("object_recognition_msgs", "octomap_msgs", "trajectory_msgs", "moveit_msgs")
)
"""Only for who wants MoveIt (the parameter planning_scene), and for its test: they take as long as all the others."""


def check_tools() -> None:
    """Stops with what is missing and what to do, before cmake says it in its own way."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        sys.exit(
            f"Python's headers are missing ({header}): install them (Debian and Ubuntu: python3-dev of the same "
            "version), or remove .venv and set PYTHON to an interpreter that has them."
        )
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        sys.exit(f"There is no C++ compiler ({compiler}): install g++ (Debian and Ubuntu: build-essential) or set CXX.")


def environment(prefixes: list[Path]) -> dict[str, str]:
    """Environment in which cmake finds ROS and its tools under these prefixes and nowhere else."""
    joined = os.pathsep.join(str(prefix) for prefix in prefixes)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AMENT_", "COLCON_"))}
    # A parent Python of another environment has set these; the wheels' start-up hook must run anew here.
    for inherited in ("_ROS_WHEELS_BOOTSTRAP_COMPLETE", "LD_LIBRARY_PATH"):
        kept.pop(inherited, None)
    scripts = os.pathsep.join(str(prefix / "bin") for prefix in prefixes)
    return kept | {
        "AMENT_PREFIX_PATH": joined,
        "CMAKE_PREFIX_PATH": joined,
        "PATH": scripts + os.pathsep + os.environ["PATH"],
    }


def build(prefix: Path, build_folder: Path, *, sources: bool, packages: Sequence[Path] = PACKAGES) -> None:
    """Builds interface packages, each after those it needs, and installs them under prefix.

    sources: install the Python sources, launch files and the rest too, as a wheel needs them.
    Raises subprocess.CalledProcessError when cmake fails.
    """
    check_tools()
    import ament_package  # installed only after the check

    # For a wheel these are three: the result, the isolated build environment with ROS in it, and Python's own.
    ros = Path(ament_package.__file__).parents[4]
    env = environment(list(dict.fromkeys([prefix, ros, Path(sys.prefix)])))
    for package in packages:
        folder = build_folder / (package.name if package != ROOT else "scenegen_ros")
        configure: list[str | Path] = [
            "cmake", "-S", package, "-B", folder, "-G", "Ninja", "--log-level=WARNING", "-Wno-dev",
            f"-DCMAKE_INSTALL_PREFIX={prefix}",
            f"-DPython3_EXECUTABLE={sys.executable}",
            f"-DCMAKE_PROJECT_INCLUDE={ROOT / 'pip_ros' / 'wheels.cmake'}",
            "-DBUILD_TESTING=OFF",
        ]  # fmt: skip
        if package == ROOT:
            configure.append(f"-DSCENEGEN_INSTALL_SOURCES={'ON' if sources else 'OFF'}")
        install: list[str | Path] = ["cmake", "--build", folder, "--target", "install", "--", "--quiet"]
        for command in (configure, install):
            subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)


def link_sources(prefix: Path) -> None:
    """Lets the environment at prefix run the sources where they lie: import path and commands."""
    site = Path(sysconfig.get_path("purelib", vars={"base": str(prefix)}))
    (site / "scenegen_ros_sources.pth").write_text(f"{ROOT}\n{ROOT / 'model'}\n")
    for script in (ROOT / "scripts").iterdir():
        command = prefix / "bin" / script.name
        command.write_text(script.read_text().replace("/usr/bin/env python3", str(prefix / "bin" / "python"), 1))
        command.chmod(0o755)


def main() -> None:
    """Builds into the running virtual environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only check that headers and a compiler are there")
    parser.add_argument("--moveit", action="store_true", help="only the interfaces of MoveIt's planning scene")
    arguments = parser.parse_args()
    if arguments.check:
        check_tools()
        return
    prefix, folder = Path(sys.prefix), ROOT / "build" / "interfaces"
    if arguments.moveit:
        build(prefix, folder, sources=False, packages=MOVEIT)
        return
    build(prefix, folder, sources=False)
    link_sources(prefix)


if __name__ == "__main__":
    main()
