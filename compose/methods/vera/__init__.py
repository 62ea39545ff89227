"""VeRA: increments between vectors, over random factors that all maps share."""
