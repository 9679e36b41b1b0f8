"""`pip install .`: the same cmake as everywhere else, into a temporary prefix that becomes the wheel's files.

colcon never comes here: for it this is an ament_cmake package. Versions come from requirements/constraints.txt.
"""

from __future__ import annotations

import atexit
import re
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "pip_ros"))
from build import build  # noqa: E402


def pinned(*files: str) -> list[str]:
    """The packages named in these files of requirements/, each with its version."""
    lines = (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    versions = {canonical(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}
    wanted = [line for name in files for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()]
    return [f"{name}=={versions[canonical(name)]}" for name in wanted if name and not name.startswith("#")]


def canonical(name: str) -> str:
    """A package's name as the index spells it, without extras."""
    return re.sub(r"[-_.]+", "-", name.split("[")[0]).lower()


class BuildWithCmake(build_py):
    """Fills the wheel with what cmake installs: Python packages, generated interfaces, their libraries and share/."""

    def run(self) -> None:
        """Builds, then hands the installed files over to setuptools."""
        scratch = Path(tempfile.mkdtemp(prefix="scenegen_ros_wheel_"))
        atexit.register(shutil.rmtree, scratch)  # setuptools reads the files after this method
        prefix = scratch / "prefix"
        build(prefix, scratch / "build", sources=True)
        base = {"base": str(prefix), "platbase": str(prefix)}
        site = Path(sysconfig.get_path("purelib", vars=base))
        self.copy_tree(str(site), self.build_lib)
        self.distribution.data_files = [
            (str(path.parent.relative_to(prefix)), [str(path)])
            for path in sorted(prefix.rglob("*"))
            if path.is_file() and site not in path.parents and "include" not in path.relative_to(prefix).parts[:1]
        ]


class NoEditable(editable_wheel):
    """Says what to do instead of an editable installation."""

    def run(self) -> None:
        """Refuses: generated interfaces cannot be edited in place."""
        sys.exit("An editable installation cannot carry the generated ROS interfaces: use `make setup` instead.")


class Compiled(Distribution):
    """The wheel holds compiled code, so it belongs to one Python and one platform."""

    def has_ext_modules(self) -> bool:
        """Always."""
        return True


setup(
    name="scenegen_ros",
    version=ElementTree.parse(ROOT / "package.xml").findtext("version"),
    description="ROS 2 node that generates the objects a robot sees, with SceneGen",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=["scenegen_ros"],
    scripts=[f"scripts/{name}" for name in ("scenegen", "scenegen_node", "scenegen_viewer", "simulated_camera")],
    install_requires=pinned("run", "ros"),
    extras_require={name: pinned(name) for name in ("export", "view", "bags")},
    setup_requires=[wanted for wanted in pinned("build") if not wanted.startswith("setuptools")],  # runs already
    cmdclass={"build_py": BuildWithCmake, "editable_wheel": NoEditable},
    distclass=Compiled,
)
