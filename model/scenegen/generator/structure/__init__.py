"""The sparse structure of assets: its VAE, its flow model and the position head (spec/structure.md sections 2-4)."""
