"""Runs plans: hooks on the backbone, the executor of a site, and the model that users hold."""
