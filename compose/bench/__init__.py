"""Side-by-side measurements: ours, the plain backbone and the peer, each in a process of its own."""
