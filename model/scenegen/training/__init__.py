"""Training of SceneGen: structure VAE, encoders, sparse-structure flow with placement. Never imports rclpy."""
