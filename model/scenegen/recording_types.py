"""The message types of a recording: those of ROS 2 Jazzy, and Foxglove's for scenes with embedded meshes.

foxglove_msgs are written down by name, type and order of their fields, as Foxglove publishes them: a reader finds the
schema in the file, and Foxglove shows what bears its names.
"""

from __future__ import annotations

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

_COLOUR = "foxglove_msgs/Color color"
_POINTS = (
    f"geometry_msgs/Pose pose\n{{}}geometry_msgs/Point[] points\n{_COLOUR}\n"
    "foxglove_msgs/Color[] colors\nuint32[] indices"
)
_FOXGLOVE = {
    "Color": "float64 r\nfloat64 g\nfloat64 b\nfloat64 a",
    "KeyValuePair": "string key\nstring value",
    "ArrowPrimitive": "geometry_msgs/Pose pose\nfloat64 shaft_length\nfloat64 shaft_diameter\nfloat64 head_length\n"
    f"float64 head_diameter\n{_COLOUR}",
    "CubePrimitive": f"geometry_msgs/Pose pose\ngeometry_msgs/Vector3 size\n{_COLOUR}",
    "SpherePrimitive": f"geometry_msgs/Pose pose\ngeometry_msgs/Vector3 size\n{_COLOUR}",
    "CylinderPrimitive": "geometry_msgs/Pose pose\ngeometry_msgs/Vector3 size\nfloat64 bottom_scale\n"
    f"float64 top_scale\n{_COLOUR}",
    "LinePrimitive": "uint8 LINE_STRIP=0\nuint8 LINE_LOOP=1\nuint8 LINE_LIST=2\nuint8 type\n"
    + _POINTS.format("float64 thickness\nbool scale_invariant\n"),
    "TriangleListPrimitive": _POINTS.format(""),
    "TextPrimitive": "geometry_msgs/Pose pose\nbool billboard\nfloat64 font_size\nbool scale_invariant\n"
    f"{_COLOUR}\nstring text",
    "ModelPrimitive": f"geometry_msgs/Pose pose\ngeometry_msgs/Vector3 scale\n{_COLOUR}\nbool override_color\n"
    "string url\nstring media_type\nuint8[] data",
    "SceneEntityDeletion": "uint8 MATCHING_ID=0\nuint8 ALL=1\nbuiltin_interfaces/Time timestamp\nuint8 type\nstring id",
    "SceneEntity": "builtin_interfaces/Time timestamp\nstring frame_id\nstring id\n"
    "builtin_interfaces/Duration lifetime\nbool frame_locked\nfoxglove_msgs/KeyValuePair[] metadata\n"
    + "\n".join(
        f"foxglove_msgs/{kind}Primitive[] {name}"
        for kind, name in (
            ("Arrow", "arrows"), ("Cube", "cubes"), ("Sphere", "spheres"), ("Cylinder", "cylinders"),
            ("Line", "lines"), ("TriangleList", "triangles"), ("Text", "texts"), ("Model", "models"),
        )
    ),
    "SceneUpdate": "foxglove_msgs/SceneEntityDeletion[] deletions\nfoxglove_msgs/SceneEntity[] entities",
}  # fmt: skip


def message_types() -> Typestore:
    """Every type that a recording uses."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, text in _FOXGLOVE.items():
        store.register(get_types_from_msg(text, f"foxglove_msgs/msg/{name}"))
    return store
