"""MuJoCo's MJCF: free bodies with textured visual meshes and convex pieces that collide. Does not need mujoco."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import SubElement

from scenegen.export.bodies import Bodies, Body
from scenegen.export.parts import Element, MeshFiles, numbers, write_meshes, write_xml


def write(scene: Bodies, out: Path) -> Path:
    """scene.xml and meshes/."""
    root = Element("mujoco", model=scene.name)
    SubElement(root, "compiler", angle="radian", autolimits="true")
    SubElement(root, "option", gravity="0 0 -9.81")
    defaults = SubElement(root, "default")
    visual = SubElement(defaults, "default", {"class": "visual"})
    SubElement(visual, "geom", type="mesh", contype="0", conaffinity="0", group="2", mass="0")
    collision = SubElement(defaults, "default", {"class": "collision"})
    # four contact dimensions: without torsional friction a round foot spins for ever
    SubElement(collision, "geom", type="mesh", group="3", condim="4", friction="0.8 0.01 0.0001")
    assets, world = SubElement(root, "asset"), SubElement(root, "worldbody")
    # no shadows: their map is as coarse as the floor is large, and paints stripes on small things
    SubElement(world, "light", dir="0.4 0.5 -0.8", directional="true", castshadow="false")
    for name, slab in scene.supports.items():
        centre, half = numbers(slab.centre_m), numbers(slab.size_m / 2)
        SubElement(world, "geom", name=name, type="box", pos=centre, size=half, rgba="0.6 0.6 0.6 1", condim="4")
    for body, files in zip(scene.bodies, write_meshes(scene, out), strict=True):
        _add_body(assets, world, body, files)
    return write_xml(root, out / "scene.xml")


def _add_body(assets: Element, world: Element, body: Body, files: MeshFiles) -> None:
    SubElement(assets, "texture", name=body.name, type="2d", file=files.texture)
    SubElement(assets, "material", name=body.name, texture=body.name, specular="0.1", shininess="0.1")
    # a shell: a visual mesh may be open, and its volume is of no interest
    SubElement(assets, "mesh", name=body.name, file=files.visual, inertia="shell")
    element = SubElement(
        world,
        "body",
        name=body.name,
        pos=numbers(body.position_m),
        quat=numbers(body.rotation.as_quat(scalar_first=True)),
    )
    SubElement(element, "freejoint", name=body.name)
    inertia = body.physics.inertia
    full = [inertia[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
    centre, mass = numbers(body.physics.centre_m), numbers([body.physics.mass_kg])
    SubElement(element, "inertial", pos=centre, mass=mass, fullinertia=numbers(full))
    SubElement(element, "geom", {"class": "visual"}, name=body.name, mesh=body.name, material=body.name)
    for i, file in enumerate(files.pieces):
        name = f"{body.name}_piece_{i:02d}"
        SubElement(assets, "mesh", name=name, file=file, inertia="convex")
        SubElement(element, "geom", {"class": "collision"}, name=name, mesh=name)
