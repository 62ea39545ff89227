"""Layer aggregation: per token, attention over the states of all layers."""
