"""What MuJoCo's, URDF's and SDFormat's writers share: mesh files, and numbers as XML wants them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from scenegen.export.bodies import Bodies
from scenegen.export.looks import write_obj, write_textured_obj

Element = ElementTree.Element
"""An XML element."""


@dataclass(frozen=True)
class MeshFiles:
    """An object's meshes in metres, z-up, relative to the folder they were written to."""

    visual: str
    texture: str
    pieces: tuple[str, ...]


def write_meshes(scene: Bodies, out: Path) -> list[MeshFiles]:
    """meshes/<name>.obj with material and texture, meshes/<name>_piece_00.obj ..., in the order of the bodies."""
    (out / "meshes").mkdir()
    files = []
    for body in scene.bodies:
        visual = f"meshes/{body.name}.obj"
        write_textured_obj(body.mesh, out / visual)
        pieces = tuple(f"meshes/{body.name}_piece_{i:02d}.obj" for i in range(len(body.pieces)))
        for name, piece in zip(pieces, body.pieces, strict=True):
            write_obj(piece, out / name)
        files.append(MeshFiles(visual, f"meshes/{body.name}.png", pieces))
    return files


def numbers(values: Iterable[float]) -> str:
    """Enough digits to lose nothing that is seen: a nanometre, a nanoradian."""
    return " ".join(f"{float(value):.10g}" for value in values)


def write_xml(root: Element, path: Path) -> Path:
    """Indented, with a declaration."""
    tree = ElementTree.ElementTree(root)
    ElementTree.indent(tree)
    tree.write(path, encoding="utf-8", xml_declaration=True)
    return path
