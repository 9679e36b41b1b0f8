"""The two image encoders that SceneGen stands on: DINOv2 for what an asset is, VGGT for where things are."""
