"""Compacter: bottlenecks whose maps are sums of Kronecker products."""
