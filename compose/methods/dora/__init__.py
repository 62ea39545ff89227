"""DoRA and DVoRA: the direction of a weight by a low-rank increment, its magnitude by a vector."""
