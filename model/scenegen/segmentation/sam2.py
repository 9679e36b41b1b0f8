"""SAM 2 as the segmenter: prompts in some views, masks in all, by the video model's memory (arXiv 2408.00714).

The network is transformers' Sam2VideoModel; its processors need torchvision, so what they do stands here. Views are
taken for the frames of a video in the order of their stamps. Knows nothing about servers or ROS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional
from transformers import Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceCache, Sam2VideoInferenceSession
from transformers.utils import logging

from scenegen.generator.devices import require_device
from scenegen.generator.encoders.vit import ImageNorm
from scenegen.prompts import Prompt, PromptedView
from scenegen.scene import Cancelled, InvalidInput, Progress, View
from scenegen.segmentation.masks import instance_masks

_ON_OBJECT, _BESIDE, _TOP_LEFT, _BOTTOM_RIGHT = 1, 0, 2, 3
"""Labels of points, as the prompt encoder knows them."""


class Segmenter:
    """Masks of prompted objects in every view of a scene."""

    def __init__(self, model: Sam2VideoModel, device: str = "cpu") -> None:
        self._model = model.eval()
        self._model.to(torch.device(device))
        self._norm = ImageNorm().to(device)
        self._device = torch.device(device)
        self._size = _side(model)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str = "cpu") -> Segmenter:
        """Load a transformers folder of the SAM 2 video model: config.json and model.safetensors.

        InvalidInput when the folder is none, a tensor is missing or has another shape, or the device cannot be used.
        """
        require_device(device)
        remedy = "give a folder with config.json and model.safetensors of a SAM 2 video model (docs/segmentation.md)"
        if not (Path(folder) / "config.json").is_file():
            raise InvalidInput(f"{folder} has no config.json: {remedy}")
        logging.disable_progress_bar()
        try:
            loaded: Any = Sam2VideoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise InvalidInput(f"{folder} cannot be loaded as SAM 2 ({error}): {remedy}") from error
        model, info = loaded
        if missing := sorted(info["missing_keys"]):
            raise InvalidInput(f"{folder} lacks {len(missing)} tensors of SAM 2, {missing[0]} among them: {remedy}")
        return cls(model, device)

    @torch.inference_mode()
    def segment(
        self,
        views: Sequence[PromptedView],
        *,
        on_progress: Callable[[Progress], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> tuple[View, ...]:
        """The views with masks, in the same order. An object that is not found in a view has no pixel there.

        cancelled: polled before every object in every view; raises Cancelled. InvalidInput when nothing is prompted.
        """
        prompts: dict[int, dict[int, Prompt]] = {}
        order = sorted(range(len(views)), key=lambda i: views[i].stamp_ns)
        for frame, i in enumerate(order):
            for prompt in views[i].prompts:
                prompts.setdefault(prompt.id, {})[frame] = prompt
        if not prompts:
            raise InvalidInput(f"none of {len(views)} views has a prompt: give a box or a point for each object")
        frames = {frame: self._pixels(views[i].image) for frame, i in enumerate(order)}
        cache = Sam2VideoInferenceCache(self._device, self._device)
        sizes = [views[i].image.shape[:2] for i in order]
        tracks = {i: _Track(self._model, frames, cache, prompts[i], sizes) for i in sorted(prompts)}
        logits: list[dict[int, NDArray[np.float32]]] = [{} for _ in views]
        steps = list(_schedule({i: frozenset(prompts[i]) for i in tracks}, len(views)))
        for done, (frame, instance_id, reverse) in enumerate(steps):
            if cancelled is not None and cancelled():
                raise Cancelled
            logits[frame][instance_id] = tracks[instance_id].run(frame, reverse)
            if on_progress is not None:
                on_progress(Progress("segmentation", (done + 1) / len(steps)))
        masks = {i: instance_masks(logits[frame], views[i].image.shape[:2]) for frame, i in enumerate(order)}
        return tuple(view.segmented(masks[i]) for i, view in enumerate(views))

    def _pixels(self, image: NDArray[np.uint8]) -> Tensor:
        """uint8 [H, W, 3] -> what the network was trained on: float [3, S, S], stretched to a square, normalised."""
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self._device).permute(2, 0, 1)[None] / 255
        square = functional.interpolate(pixels, (self._size, self._size), mode="bilinear", antialias=True)
        return torch.as_tensor(self._norm(square)[0])


def _side(model: Sam2VideoModel) -> int:
    """Pixels along a side of the square that the network sees."""
    side: Any = model.config.image_size
    return int(side)


class _Track:
    """One object through the views: a session of its own, for objects may be prompted in different views.

    (In a session of many objects, transformers takes a view in which an object has no prompt yet for a prompted one.)
    """

    def __init__(
        self,
        model: Sam2VideoModel,
        frames: dict[int, Tensor],
        cache: Sam2VideoInferenceCache,
        prompts: Mapping[int, Prompt],
        sizes: Sequence[tuple[int, ...]],
    ) -> None:
        """cache: of the view at work, shared by all tracks. sizes: (height, width) of every image."""
        self._model = model
        self._session = Sam2VideoInferenceSession(inference_device=model.device, dtype=torch.float32)
        self._session.processed_frames, self._session.cache = frames, cache
        self._session.obj_id_to_idx(0)
        self._prompted = frozenset(prompts)
        size = _side(model)
        for frame, prompt in prompts.items():
            points, labels = _points(prompt)
            points *= torch.tensor([size / sizes[frame][1], size / sizes[frame][0]])
            self._session.add_point_inputs(
                0, frame, {"point_coords": points[None, None], "point_labels": labels[None, None]}
            )

    def run(self, frame: int, reverse: bool) -> NDArray[np.float32]:
        """Logits float32 [h, w] of the object in one view; what is found is remembered for the views that follow."""
        session = self._session
        session.obj_with_new_inputs = [0] if frame in self._prompted else []
        found = self._model(session, frame_idx=frame, reverse=reverse)
        for outputs in session.output_dict_per_obj[0].values():
            outputs.get(frame, {}).pop("high_res_masks", None)  # only memory is made of it, and 4 MB each adds up
        return np.asarray(found.pred_masks[0, 0].float().cpu().numpy())


def _points(prompt: Prompt) -> tuple[Tensor, Tensor]:
    """A prompt as the network takes it: points float [P, 2] in pixels and labels int [P], the box's corners first."""
    corners = [] if prompt.box is None else [(prompt.box[:2], _TOP_LEFT), (prompt.box[2:], _BOTTOM_RIGHT)]
    labelled = [
        *corners,
        *((point, _ON_OBJECT) for point in prompt.inside),
        *((point, _BESIDE) for point in prompt.outside),
    ]
    points = torch.tensor([point for point, _ in labelled], dtype=torch.float32)
    return points, torch.tensor([label for _, label in labelled], dtype=torch.int32)


def _schedule(prompted: Mapping[int, frozenset[int]], count: int) -> Iterator[tuple[int, int, bool]]:
    """(frame, id, backwards) of every object in every one of `count` frames; prompted: the frames with its prompts.

    Prompted frames first, since memory is made of them, then forward in time, then backward to the first. Frame by
    frame, so that each is encoded once or twice.
    """
    for frame in range(count):
        yield from ((frame, i, False) for i, own in prompted.items() if frame in own)
    for frame in range(count):
        yield from ((frame, i, False) for i, own in prompted.items() if frame not in own and frame > min(own))
    for frame in reversed(range(count)):
        yield from ((frame, i, True) for i, own in prompted.items() if frame < min(own))
