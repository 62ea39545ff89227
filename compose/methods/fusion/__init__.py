"""AdapterFusion: attention over the increments of several adapters."""
