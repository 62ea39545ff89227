"""Heads: from a branch's states to a task's output."""
