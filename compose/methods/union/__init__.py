"""Unions: several methods under one name."""
