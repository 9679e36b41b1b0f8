"""SceneGen (arXiv 2508.15769): views of a scene in, complete 3D objects and their placements out."""

__version__ = "0.1.0"
