"""MTL-LoRA: low-rank increments with a task matrix and several up-projections."""
