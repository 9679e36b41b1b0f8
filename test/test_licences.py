"""Nothing this project needs is under the GPL, the AGPL or a licence that forbids commercial use.

What distributions declare of themselves is judged: their metadata, the package.xml of ROS packages, or, where neither
says anything, the licence file's first lines. Libraries bundled inside wheels declare nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from xml.etree import ElementTree

import pytest
from packaging.requirements import Requirement

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements"
REFUSED = re.compile(r"\bA?GPL|GNU (Affero )?General Public|non-?commercial|\bBY-NC\b|Affero", re.IGNORECASE)
LESSER = re.compile(r"\bLGPL[^|]*|GNU (Library or )?Lesser General Public[^|]*", re.IGNORECASE)

ONLY_IN_PART = {"docutils": "public domain and BSD but for an Emacs mode under the GPL, which is not Python"}
LESSER_STATED: dict[str, str] = {}
"""Packages under the LGPL, and why they may stay. It can: as a library used as it comes, not copied into ours."""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed() -> dict[str, Distribution]:
    """Everything installed that the files of requirements/ lead to. colcon's environment is not this one."""
    lines = [line for name in ("run", "export", "view", "bags", "ros", "build", "dev") for line in _lines(name)]
    todo, seen, found = [Requirement(line) for line in lines], set(), {}
    while todo:
        wanted = todo.pop()
        if (key := (canonical(wanted.name), frozenset(wanted.extras))) in seen:
            continue
        seen.add(key)
        found[key[0]] = distribution(wanted.name)
        for line in found[key[0]].requires or []:
            more = Requirement(line)
            if more.marker is None or any(more.marker.evaluate({"extra": extra}) for extra in wanted.extras or {""}):
                todo.append(more)
    return found


def _lines(name: str) -> list[str]:
    return [line for line in (REQUIREMENTS / f"{name}.txt").read_text().splitlines() if line and line[0] != "#"]


def declared(package: Distribution) -> str:
    """The licences a distribution names, separated by bars."""
    return " | ".join(name for name in _declared(package) if name.strip())


def _declared(package: Distribution) -> Iterator[str]:
    metadata = package.metadata
    named = [metadata.get("License-Expression") or "", (metadata.get("License") or "")[:300]]
    named += [line for line in metadata.get_all("Classifier") or [] if line.startswith("License")]
    files = package.files or []
    for file in files:
        if file.name == "package.xml":
            named += [element.text or "" for element in ElementTree.parse(file.locate()).iter("license")]
    yield from named
    if not any(named):
        own = [file for file in files if file.parts[0].endswith(".dist-info")]
        texts = [file for file in own if re.match(r"licen[cs]e|copying", file.name, re.IGNORECASE)]
        yield from (Path(str(file.locate())).read_text(errors="replace")[:300] for file in texts)


def problems(packages: dict[str, str]) -> list[str]:
    """What is wrong with packages: name -> licences declared."""
    found = []
    for name, licences in packages.items():
        if LESSER.search(licences) and name not in LESSER_STATED:
            found.append(f"{name} is under the LGPL: say in LESSER_STATED why it may stay")
        if REFUSED.search(LESSER.sub("", licences)) and name not in ONLY_IN_PART:
            found.append(f"{name} must not be used: {licences}")
        if not licences:
            found.append(f"{name} declares no licence")
    return found


def test_every_package_may_be_used_by_anyone() -> None:
    packages = {name: declared(package) for name, package in needed().items()}
    assert len(packages) > 100 and {"torch", "xatlas", "fast-simplification", "embreex"} <= packages.keys()
    assert not problems(packages), "\n".join(problems(packages))


@pytest.mark.parametrize(
    "licences",
    ["GPLv3", "AGPL-3.0-only", "License :: OSI Approved :: GNU General Public License v2 (GPLv2)", "CC-BY-NC-4.0", ""]
    + ["LGPL-2.1-or-later", "for non-commercial use only"],
)
def test_what_is_not_allowed_is_found(licences: str) -> None:
    assert len(problems({"something": licences})) == 1
