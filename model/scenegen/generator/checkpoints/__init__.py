"""Checkpoints on disk: a `pipeline.json`, and for each model `X.json` ({"name", "args"}) with `X.safetensors`.

The published layout (spec/structure.md section 0), a Hugging Face cache, and the encoders as their authors publish
them. Strict, safetensors only: nothing is unpickled, nothing is downloaded.
"""

from scenegen.generator.checkpoints.models import (
    load_model,
    open_aggregator,
    open_image_encoder,
    open_model,
    open_vggt,
    save_image_encoder,
    save_model,
)
from scenegen.generator.checkpoints.places import find_encoder, find_model
from scenegen.generator.checkpoints.settings import (
    Mode,
    SamplerSettings,
    latent_normalization,
    latent_sampler,
    load_pipeline,
    save_pipeline,
    structure_sampler,
)
from scenegen.generator.checkpoints.stored import Memory, Stored
from scenegen.generator.checkpoints.tensors import load_weights

__all__ = [
    "Memory",
    "Mode",
    "SamplerSettings",
    "Stored",
    "find_encoder",
    "find_model",
    "latent_normalization",
    "latent_sampler",
    "load_model",
    "load_pipeline",
    "load_weights",
    "open_aggregator",
    "open_image_encoder",
    "open_model",
    "open_vggt",
    "save_image_encoder",
    "save_model",
    "save_pipeline",
    "structure_sampler",
]
