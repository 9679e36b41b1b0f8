"""Structured latents have a mean and deviation per channel, which the flow model does not see (section 5).

spec/latents.md. Knows nothing about sampling or decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from scenegen.scene import InvalidInput


@dataclass(frozen=True)
class LatentNormalisation:
    """Mean and standard deviation of each latent channel, as in `slat_normalization` of a `pipeline.json`."""

    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(deviation > 0 for deviation in self.std):
            raise InvalidInput(
                f"latent normalisation with means {list(self.mean)} and deviations {list(self.std)}: as many of the "
                "one as of the other are needed, deviations above 0"
            )

    def normalise(self, latents: Tensor) -> Tensor:
        """What the encoder gives -> what the flow model is trained on: [..., C]."""
        return (latents - latents.new_tensor(self.mean)) / latents.new_tensor(self.std)

    def restore(self, latents: Tensor) -> Tensor:
        """What the flow model samples -> what the decoders take: [..., C]."""
        return latents * latents.new_tensor(self.std) + latents.new_tensor(self.mean)


PUBLISHED = LatentNormalisation(
    mean=(
        -2.1687545776367188,
        -0.004347046371549368,
        -0.13352349400520325,
        -0.08418072760105133,
        -0.5271206498146057,
        0.7238689064979553,
        -1.1414450407028198,
        1.2039363384246826,
    ),
    std=(
        2.377650737762451,
        2.386378288269043,
        2.124418020248413,
        2.1748552322387695,
        2.663944721221924,
        2.371192216873169,
        2.6217446327209473,
        2.684523105621338,
    ),
)
"""Of the published latents."""
