"""What methods at linear maps have in common: where they act, and increments of low rank."""
