"""SDFormat 1.9, for Gazebo: a world with a model per object, and the floor. Mesh files are relative to the world's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.etree.ElementTree import SubElement

from scenegen.export.bodies import Bodies, Body, Floor
from scenegen.export.parts import Element, MeshFiles, numbers, write_meshes, write_xml


def write(scene: Bodies, out: Path) -> Path:
    """scene.sdf and meshes/."""
    root = Element("sdf", version="1.9")
    world = SubElement(root, "world", name=scene.name)
    _text(world, "gravity", "0 0 -9.81")
    light = SubElement(world, "light", name="sun", type="directional")
    _text(light, "direction", "-0.4 0.2 -0.9")
    for name, slab in scene.supports.items():
        _add_slab(world, name, slab)
    for body, files in zip(scene.bodies, write_meshes(scene, out), strict=True):
        _add_model(world, body, files)
    return write_xml(root, out / "scene.sdf")


def _add_model(world: Element, body: Body, files: MeshFiles) -> None:
    model = SubElement(world, "model", name=body.name)
    _pose(model, [*body.position_m, *body.rotation.as_euler("xyz")])
    link = SubElement(model, "link", name="link")
    inertial = SubElement(link, "inertial")
    _pose(inertial, [*body.physics.centre_m, 0, 0, 0])
    _text(inertial, "mass", numbers([body.physics.mass_kg]))
    inertia, axes = SubElement(inertial, "inertia"), "xyz"
    for i in range(3):
        for j in range(i, 3):
            _text(inertia, f"i{axes[i]}{axes[j]}", numbers([body.physics.inertia[i, j]]))
    _mesh(SubElement(link, "visual", name="visual"), files.visual)
    for i, piece in enumerate(files.pieces):
        _mesh(SubElement(link, "collision", name=f"piece_{i:02d}"), piece)


def _add_slab(world: Element, name: str, slab: Floor) -> None:
    model = SubElement(world, "model", name=name)
    _text(model, "static", "true")
    _pose(model, [*slab.centre_m, 0, 0, 0])
    link = SubElement(model, "link", name="link")
    for kind in ("visual", "collision"):
        geometry = SubElement(SubElement(link, kind, name=kind), "geometry")
        _text(SubElement(geometry, "box"), "size", numbers(slab.size_m))


def _mesh(parent: Element, file: str) -> None:
    _text(SubElement(SubElement(parent, "geometry"), "mesh"), "uri", file)


def _pose(parent: Element, values: Iterable[float]) -> None:
    _text(parent, "pose", numbers(values))


def _text(parent: Element, name: str, text: str) -> None:
    SubElement(parent, name).text = text
