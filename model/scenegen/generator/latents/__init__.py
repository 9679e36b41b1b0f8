"""Structured latents: features on the occupied voxels of assets, how they are sampled, and what they decode to."""
