"""Adapter methods: a torch-free `spec` and a torch `module` for each."""
