"""URDF: one file per object, and one of the whole scene with every object fixed to the link `world`.

URDF has no bodies that move freely: a simulator spawns the single objects, a planner takes the scene. File names are
relative to the URDF. Says nothing of a floor.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import SubElement

from scenegen.export.bodies import Bodies, Body
from scenegen.export.parts import Element, MeshFiles, numbers, write_meshes, write_xml


def write(scene: Bodies, out: Path) -> Path:
    """scene.urdf, <name>.urdf and meshes/."""
    whole = _robot(scene.name)
    SubElement(whole, "link", name="world")
    for body, files in zip(scene.bodies, write_meshes(scene, out), strict=True):
        alone = _robot(body.name)
        _add_link(alone, body, files)
        write_xml(alone, out / f"{body.name}.urdf")
        _add_link(whole, body, files)
        joint = SubElement(whole, "joint", name=f"world_{body.name}", type="fixed")
        SubElement(joint, "parent", link="world")
        SubElement(joint, "child", link=body.name)
        SubElement(joint, "origin", xyz=numbers(body.position_m), rpy=numbers(body.rotation.as_euler("xyz")))
    return write_xml(whole, out / "scene.urdf")


def _robot(name: str) -> Element:
    robot = Element("robot", name=name)
    # for MuJoCo, which else drops folders, visual meshes and links that do not move; others ignore it
    SubElement(SubElement(robot, "mujoco"), "compiler", strippath="false", discardvisual="false", fusestatic="false")
    return robot


def _add_link(robot: Element, body: Body, files: MeshFiles) -> None:
    link = SubElement(robot, "link", name=body.name)
    inertial = SubElement(link, "inertial")
    SubElement(inertial, "origin", xyz=numbers(body.physics.centre_m), rpy="0 0 0")
    SubElement(inertial, "mass", value=numbers([body.physics.mass_kg]))
    axes = "xyz"
    moments = {f"i{axes[i]}{axes[j]}": numbers([body.physics.inertia[i, j]]) for i in range(3) for j in range(i, 3)}
    SubElement(inertial, "inertia", moments)
    for kind, names in (("visual", [files.visual]), ("collision", files.pieces)):
        for name in names:
            element = SubElement(link, kind)
            SubElement(element, "origin", xyz="0 0 0", rpy="0 0 0")
            SubElement(SubElement(element, "geometry"), "mesh", filename=name, scale="1 1 1")
