"""Textures of asset meshes: where the colours come from (three ways) and how they get into an image."""
