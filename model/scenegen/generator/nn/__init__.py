"""Small network parts that the structure and latent models share. Knows nothing about scenes."""
