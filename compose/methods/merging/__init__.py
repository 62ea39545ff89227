"""Several adapters of one method made into one: arithmetic on their weights."""
