"""The generation server: stateless streaming POSTs in front of a SceneGen and, where one is given, a segmenter.

`create_app` is the ASGI application, for uvicorn here and for whatever else runs ASGI; `serve` runs it on one machine.
Knows nothing about torch or ROS: it is given what loads them.
"""

from __future__ import annotations

from scenegen.server.app import Limits, create_app
from scenegen.server.listen import serve
from scenegen.server.worker import SceneGenerator, ViewSegmenter

__all__ = ["Limits", "SceneGenerator", "ViewSegmenter", "create_app", "serve"]
