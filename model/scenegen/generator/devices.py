"""Whether torch can work on a device. Knows nothing about models."""

from __future__ import annotations

import torch

from scenegen.scene import InvalidInput


def require_device(device: str) -> None:
    """Raise InvalidInput, with torch's own reason, when no tensor can be made on it: no such GPU, a torch without."""
    try:
        torch.empty(1, device=device)
    except (AssertionError, RuntimeError) as error:  # torch says so by the first where it was built without CUDA
        reason = str(error).splitlines()[0]
        raise InvalidInput(
            f"device {device!r} cannot be used ({reason}): say cpu, or install a torch and a driver for this GPU"
        ) from error
