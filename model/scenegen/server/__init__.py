"""The generation server: one stateless streaming POST in front of a SceneGen.

`create_app` is the ASGI application, for uvicorn here and for whatever else runs ASGI; `serve` runs it on one machine.
Knows nothing about torch or ROS: it is given what loads the generator.
"""

from __future__ import annotations

from scenegen.server.app import Limits, create_app
from scenegen.server.listen import serve
from scenegen.server.worker import SceneGenerator

__all__ = ["Limits", "SceneGenerator", "create_app", "serve"]
