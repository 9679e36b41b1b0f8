"""From what the networks produce to meshes."""
