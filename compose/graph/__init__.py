"""The execution graph: built from an expression, verified, counted, drawn."""
