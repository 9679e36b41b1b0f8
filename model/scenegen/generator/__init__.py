"""The GPU side: networks, samplers and the pipeline that turns views into a scene. Never imports ROS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scenegen.generator.pipeline import SceneGen

__all__ = ["SceneGen"]


def __getattr__(name: str) -> Any:
    """SceneGen, imported when it is asked for: the parts below this package are used without the whole of it."""
    if name == "SceneGen":
        from scenegen.generator.pipeline import SceneGen

        return SceneGen
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
