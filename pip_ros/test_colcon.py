"""Proves that a ROS workspace can build this tree: `colcon build` in a temporary one, then the result is used.

Slow (half a minute and more), so outside the test suite: `make test-colcon`. ROS itself comes from the environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from build import ROOT, environment

CHECK = """
import pathlib, scenegen, scenegen_ros.node
from scenegen_ros.action import GenerateScene
from scenegen_ros.msg import Scene
install = pathlib.Path("install").resolve()
for module in (scenegen, scenegen_ros.node):
    assert install in pathlib.Path(module.__file__).resolve().parents, module.__file__
assert Scene(id="a").id == "a" and GenerateScene.Goal(views=2).views == 2
"""


def colcon() -> Path:
    """The command, in an environment of its own: it brings pytest plugins that our tests must not meet."""
    folder = Path(sys.prefix) / "colcon"
    if not (folder / "bin" / "colcon").is_file():
        venv.create(folder, with_pip=True)
        pinned = ["-r", ROOT / "requirements" / "colcon.txt", "-c", ROOT / "requirements" / "constraints.txt"]
        install = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", *pinned]
        subprocess.run(install, env=environment([folder]), check=True)
    return folder / "bin" / "colcon"


def main() -> None:
    """Builds and checks; raises CalledProcessError or exits with the reason when something is missing."""
    command = colcon()
    env = environment([Path(sys.prefix)])
    with tempfile.TemporaryDirectory(prefix="scenegen_ros_ws_") as name:
        workspace = Path(name)
        # Only what git knows or would take: not the environment, not earlier builds.
        listed = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for path in subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0"):
            if path and (ROOT / path).is_file():
                target = workspace / "src" / "scenegen_ros" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / path, target)
        cmake_args = [
            f"-DCMAKE_PROJECT_INCLUDE={ROOT / 'pip_ros' / 'wheels.cmake'}",
            f"-DPython3_EXECUTABLE={sys.executable}",
            "-DBUILD_TESTING=OFF",
        ]
        subprocess.run([command, "build", "--cmake-args", *cmake_args], cwd=workspace, env=env, check=True)

        python = shutil.which("python3", path=env["PATH"])
        sourced = ["bash", "-c", '. install/setup.bash && exec "$@"', "bash"]
        run_env = env | {"COLCON_PYTHON_EXECUTABLE": sys.executable}
        subprocess.run([*sourced, python, "-P", "-c", CHECK], cwd=workspace, env=run_env, check=True)
        installed = workspace / "install" / "scenegen_ros"
        for wanted in (
            "lib/scenegen_ros/scenegen_node",
            "lib/scenegen_ros/simulated_camera",
            "lib/scenegen_ros/scenegen",
            "share/scenegen_ros/launch/scene.launch.py",
            "share/scenegen_ros/config/fastdds.xml",
            "share/scenegen_ros/rviz/scene.rviz",
        ):
            if not (installed / wanted).is_file():
                sys.exit(f"colcon did not install {wanted}")
            if wanted.startswith("lib/") and not os.access(installed / wanted, os.X_OK):
                sys.exit(f"{wanted} is not executable")
    print("colcon build: ok")


if __name__ == "__main__":
    main()
