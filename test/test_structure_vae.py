"""The sparse-structure VAE and the coordinates of occupied voxels."""

from __future__ import annotations

import torch

from scenegen.generator.structure.coords import occupied_voxels, voxel_positions
from scenegen.generator.structure.vae import SparseStructureDecoder, SparseStructureEncoder, pixel_shuffle_3d


def test_encoder_and_decoder_meet_at_the_latent() -> None:
    encoder = SparseStructureEncoder(1, 4, 0, [8, 8, 16], 1)
    decoder = SparseStructureDecoder(1, 4, 0, [16, 8, 8], 1)
    grid = (torch.rand(2, 1, 16, 16, 16) > 0.5).float()
    z, mean, logvar = encoder(grid, sample_posterior=True, return_raw=True)
    assert z.shape == mean.shape == logvar.shape == (2, 4, 4, 4, 4)
    assert not torch.equal(z, mean)
    assert torch.equal(encoder(grid), mean)
    assert decoder(mean).shape == grid.shape


def test_half_precision_keeps_norms_and_ends_in_single() -> None:
    decoder = SparseStructureDecoder(1, 4, 1, [16, 8], 1, use_fp16=True)
    halves = {name for name, p in decoder.named_parameters() if p.dtype == torch.float16}
    assert halves == {
        name
        for name, _ in decoder.named_parameters()
        if name.startswith(("blocks.", "middle_block.")) and ".conv" in name
    }
    assert decoder(torch.randn(1, 4, 4, 4, 4)).dtype == torch.float32


def test_pixel_shuffle_puts_channels_at_their_offsets() -> None:
    x = torch.arange(16 * 27.0).reshape(1, 16, 3, 3, 3)
    y = pixel_shuffle_3d(x)
    c, a, b, d, i, j, k = 1, 1, 0, 1, 2, 0, 1
    assert y.shape == (1, 2, 6, 6, 6)
    assert y[0, c, 2 * i + a, 2 * j + b, 2 * k + d] == x[0, c * 8 + a * 4 + b * 2 + d, i, j, k]


def test_occupied_voxels_are_strictly_positive_and_sorted() -> None:
    logits = torch.full((2, 1, 4, 4, 4), -1.0)
    for asset, i, j, k in ((1, 0, 3, 2), (1, 0, 3, 1), (0, 2, 0, 0), (1, 3, 0, 0)):
        logits[asset, 0, i, j, k] = 0.5
    logits[0, 0, 0, 0, 0] = 0.0
    coords = occupied_voxels(logits)
    assert coords.dtype == torch.int32
    assert coords.tolist() == [[0, 2, 0, 0], [1, 0, 3, 1], [1, 0, 3, 2], [1, 3, 0, 0]]
    assert voxel_positions(coords, 4)[0].tolist() == [0.0, -0.5, -0.5]
