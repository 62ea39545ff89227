"""Prefix tuning: keys and values of virtual tokens before those of the real ones."""
