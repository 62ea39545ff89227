"""BitFit: only the biases of the backbone change, and only by differences that are the adapter's."""
