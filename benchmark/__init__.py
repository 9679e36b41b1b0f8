"""What `make benchmark` measures; nothing here is installed."""
