"""The laws: what holds for every expression, method and backbone."""
