"""LoRA: low-rank increments of linear maps."""
