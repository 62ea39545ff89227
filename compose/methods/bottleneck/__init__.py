"""Bottleneck adapters: down, non-linearity, up."""
