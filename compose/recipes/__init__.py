"""Recipes: a whole experiment in one YAML file, read, checked, run and reported."""
