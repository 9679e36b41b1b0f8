"""Views in image files: photographs, instance masks, depth, cameras. For the command line and recorded folders.

Knows nothing about ROS messages or about what is done with the views.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from scenegen.scene import Floats, InvalidInput, View

logger = logging.getLogger(__name__)

SPECKLE_PIXELS = 50
"""A colour with fewer pixels in all masks together is taken for a smeared edge, not for an object."""
MAX_COLOURS = 100
_MILLIMETRE = np.float32(1e-3)


def read_views(folder: str | Path) -> list[View]:
    """The views of a folder: image*.jpg or .png, each with the masks*, depth* and camera*.json of the same ending.

    `image.jpg, masks.png` is one view; `image_000.png, masks_000.png, depth_000.png, camera_000.json, ...` are many.
    InvalidInput when there is no image, or one lacks its masks.
    """
    folder = Path(folder)
    images = sorted(p for p in folder.glob("image*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not images:
        raise InvalidInput(f"{folder} has no image*.jpg or image*.png: give a folder with image.jpg and masks.png")
    endings = [image.stem.removeprefix("image") for image in images]
    wide = [folder / f"masks{ending}.tiff" for ending in endings]
    masks = [path if path.exists() else path.with_suffix(".png") for path in wide]
    depths = [folder / f"depth{ending}.png" for ending in endings]
    cameras = [folder / f"camera{ending}.json" for ending in endings]
    return load_views(
        images,
        masks,
        depths if all(path.exists() for path in depths) else (),
        cameras if all(path.exists() for path in cameras) else (),
    )


def write_views(folder: str | Path, views: Sequence[View]) -> None:
    """Write views into a folder as image_000.png, masks_000.png, depth_000.png, camera_000.json, ...: see read_views.

    Depth is rounded to millimetres; where only some views have it, the others get depth without readings.
    Instance ids above 65535 go into masks_000.tiff, ... instead. OSError when the disk refuses.
    """
    with_depth = any(view.depth_m is not None for view in views)
    for index, view in enumerate(views):
        if with_depth and view.depth_m is None:
            view = replace(view, depth_m=np.zeros(view.masks.shape, np.float32))
        write_view(folder, view, f"_{index:03d}")


def write_view(folder: str | Path, view: View, ending: str = "") -> None:
    """Write one view as image<ending>.png, masks<ending>.png, ...: see write_views."""
    folder = Path(folder)
    planes: dict[str, NDArray[Any]] = {"image": view.image[..., ::-1]}
    if view.masks.max(initial=0) <= np.iinfo(np.uint16).max:
        planes["masks"] = view.masks.astype(np.uint16)
    else:  # ids that were colours once (scenegen_ros.conversions); PNG has no more than 16 bits
        Image.fromarray(view.masks.astype(np.int32)).save(folder / f"masks{ending}.tiff", compression="tiff_lzw")
    if view.depth_m is not None:
        depth_m = np.nan_to_num(view.depth_m, nan=0.0)
        planes["depth"] = np.rint(depth_m / _MILLIMETRE).clip(0, 65535).astype(np.uint16)
    for name, plane in planes.items():
        packed = cv2.imencode(".png", plane, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
        (folder / f"{name}{ending}.png").write_bytes(packed.tobytes())
    camera = {
        "width": view.image.shape[1],
        "height": view.image.shape[0],
        "intrinsics": None if view.intrinsics is None else view.intrinsics.tolist(),
        "T_world_camera": None if view.T_world_camera is None else view.T_world_camera.tolist(),
    }
    (folder / f"camera{ending}.json").write_text(json.dumps(camera, indent=1))


def load_views(
    images: Sequence[str | Path],
    masks: Sequence[str | Path],
    depths: Sequence[str | Path] = (),
    cameras: Sequence[str | Path] = (),
) -> list[View]:
    """One view per image; masks as many, depths and cameras as many or none. InvalidInput naming the file at fault."""
    for name, paths in (("masks", masks), ("depth images", depths), ("camera files", cameras)):
        if len(paths) != len(images) and (paths or name == "masks"):
            raise InvalidInput(f"{len(images)} images but {len(paths)} {name}: give one for each image, in their order")
    views = []
    for index, (path, ids) in enumerate(zip(images, read_masks(masks), strict=True)):
        try:
            view = View(read_image(path), ids, read_depth(depths[index]) if depths else None)
        except InvalidInput as error:
            raise InvalidInput(f"{path} with {masks[index]}: {error}") from error
        if cameras:
            height, width = view.masks.shape
            intrinsics, T_world_camera = read_camera(cameras[index], width, height)
            view = replace(view, intrinsics=intrinsics, T_world_camera=T_world_camera)
        views.append(view)
    return views


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB, turned upright as the camera noted in the file."""
    image = ImageOps.exif_transpose(_open(path))
    return np.array(image.convert("RGB"))


def read_masks(paths: Sequence[str | Path]) -> list[NDArray[np.int32]]:
    """Instance ids int32 [H, W] of each file, 0 is background.

    A greyscale image (8 or 16 bit) holds the ids themselves. In a colour image every colour on black is an instance;
    the ids are 1, 2, ... in the order of the colours' values (red first), over all files together, so that an object
    keeps its id from view to view. Colours of fewer than 50 pixels are dropped, with a note in the log.
    """
    planes = [_mask_plane(path) for path in paths]
    coloured = [path for path, (_, is_coloured) in zip(paths, planes, strict=True) if is_coloured]
    if not coloured:
        return [plane for plane, _ in planes]
    if len(coloured) < len(planes):
        raise InvalidInput(f"{coloured[0]} has colours and other masks have labels: give masks of one kind")
    colours, counts = np.unique(np.concatenate([plane.ravel() for plane, _ in planes]), return_counts=True)
    kept = colours[(colours > 0) & (counts >= SPECKLE_PIXELS)]
    dropped = np.count_nonzero(colours) - len(kept)
    if len(kept) > MAX_COLOURS:
        raise InvalidInput(
            f"{coloured[0]} has {len(kept)} colours, at most {MAX_COLOURS} objects make sense: it was smoothed or "
            "compressed with loss; save masks as PNG, resized by nearest neighbour only"
        )
    if dropped:
        logger.warning(
            "%s: %d colours of fewer than %d pixels are taken for smeared edges and left out",
            ", ".join(map(str, coloured)),
            dropped,
            SPECKLE_PIXELS,
        )
    return [_ranks(plane, kept) for plane, _ in planes]


def read_depth(path: str | Path) -> NDArray[np.float32]:
    """float32 [H, W] metres along the optical axis from a 16-bit PNG of millimetres; 0 is no reading."""
    image = _open(path)
    if not image.mode.startswith("I"):
        raise InvalidInput(f"{path} is not a 16-bit greyscale image ({image.mode}): save depth as millimetres, 16UC1")
    return np.array(image).astype(np.float32) * _MILLIMETRE


def read_camera(path: str | Path, width: int, height: int) -> tuple[Floats | None, Floats | None]:
    """intrinsics float64 [3, 3] in pixels or None and T_world_camera float64 [4, 4] or None, of a camera.json.

    The file holds {"width", "height", "intrinsics": 3x3 or null, "T_world_camera": 4x4 or null}; width and height must
    be those of the image.
    """
    try:
        camera: dict[str, Any] = json.loads(Path(path).read_bytes())
        size = camera["width"], camera["height"]
        pinhole = camera["intrinsics"]
        intrinsics = None if pinhole is None else _finite(pinhole, 3)
        pose = camera.get("T_world_camera")
        T_world_camera = None if pose is None else _finite(pose, 4)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(
            f"{path} is no camera file ({error!r}): it needs width, height, intrinsics (3x3) and T_world_camera (4x4)"
        ) from error
    if size != (width, height):
        raise InvalidInput(f"{path} is for {size[0]} x {size[1]} pixels, its image has {width} x {height}: scale both")
    return intrinsics, T_world_camera


def _open(path: str | Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError as error:
        raise InvalidInput(f"{path} does not exist: correct the path") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidInput(f"{path} is not a readable image ({error}): it is damaged or of another kind") from error
    return image


def _mask_plane(path: str | Path) -> tuple[NDArray[np.int32], bool]:
    """Labels, or colours packed as 0xRRGGBB with transparent pixels black; and whether they are colours."""
    image = _open(path)
    if image.mode in ("1", "L") or image.mode.startswith("I"):
        return np.maximum(np.array(image).astype(np.int32), 0), False
    pixels = np.array(image.convert("RGBA")).astype(np.int32)
    packed = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    return np.where(pixels[..., 3] > 0, packed, 0).astype(np.int32), True


def _ranks(plane: NDArray[np.int32], kept: NDArray[np.int32]) -> NDArray[np.int32]:
    """1 + the index in the sorted colours `kept` of every pixel, 0 for other colours."""
    if not len(kept):
        return np.zeros_like(plane)
    rank = np.minimum(np.searchsorted(kept, plane), len(kept) - 1)
    return np.where(kept[rank] == plane, rank + 1, 0).astype(np.int32)


def _finite(value: Any, n: int) -> Floats:
    matrix = np.array(value, dtype=np.float64)
    if matrix.shape != (n, n) or not np.isfinite(matrix).all():
        raise ValueError(f"expected {n} x {n} finite numbers")
    return matrix
