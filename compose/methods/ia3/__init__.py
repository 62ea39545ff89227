"""IA3: a learned scaling of linear maps."""
