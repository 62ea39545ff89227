"""What `--smoke` puts in the place of a recipe's backbone and data, so that it runs offline in seconds."""

from compose.recipes.smoke.smoke import NOTE, Smoke

__all__ = ["NOTE", "Smoke"]
