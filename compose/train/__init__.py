"""Training and scoring: data, the loop, metrics, baselines."""
