"""Prompt tuning: learned vectors among the embeddings."""
