"""Heads, what they return, and what reads and feeds them."""
