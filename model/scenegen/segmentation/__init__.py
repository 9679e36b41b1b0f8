"""Instance masks from prompts, where no other segmentation is at hand: SAM 2 over the views of one scene."""

from __future__ import annotations

from scenegen.segmentation.sam2 import Segmenter

__all__ = ["Segmenter"]
