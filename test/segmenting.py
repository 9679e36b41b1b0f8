"""The smallest SAM 2 video model that has every part, with random weights, as a folder; and views with prompts for it.

Its object score is biased so that it takes every object for visible, as a trained model does for good prompts: without
that, random weights find nothing anywhere.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import Sam2VideoConfig, Sam2VideoModel

from scenegen.prompts import Prompt, PromptedView

SIDE = 64


def save_segmenter(folder: Path) -> Path:
    """Write config.json and model.safetensors, 1 MB, and return the folder."""
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [8, 4, 4, 4],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [2, 2],
        "initializer_range": 0.2,
    }
    vision = {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[SIDE // 4, SIDE // 4], [SIDE // 8, SIDE // 8], [SIDE // 16, SIDE // 16]],
        "fpn_hidden_size": 128,
        "initializer_range": 0.2,
    }
    decoder = {"hidden_size": 128, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    config = Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 128, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 8},
        mask_decoder_config=decoder,
        initializer_range=0.2,
        image_size=SIDE,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=[SIDE // 16, SIDE // 16],
        memory_encoder_hidden_size=128,
        mask_downsampler_embed_dim=128,
        memory_fuser_num_layers=1,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=32,
    )
    torch.manual_seed(0)
    model = Sam2VideoModel(config)
    with torch.no_grad():
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(100.0)
    model.save_pretrained(folder)
    return folder


def prompted_view(
    prompts: tuple[Prompt, ...], seed: int = 0, size: tuple[int, int] = (48, 80), stamp_ns: int = 0
) -> PromptedView:
    """An image of coloured squares on noise, with depth; prompts as given."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (*size, 3), dtype=np.uint8)
    for _ in range(3):
        row, column = rng.integers(0, size[0] - 16), rng.integers(0, size[1] - 16)
        image[row : row + 16, column : column + 16] = rng.integers(100, 256, 3)
    depth_m = np.full(size, 0.8, np.float32)
    return PromptedView(image, np.zeros(size, np.int32), depth_m, stamp_ns=stamp_ns, prompts=prompts)
