"""Backbones: where their sites are. One table per family; unknown ones are inferred."""
