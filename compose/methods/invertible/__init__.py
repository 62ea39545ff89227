"""Invertible adapters at the embeddings: coupling blocks, part of a bottleneck adapter's options."""
