"""The tests, by part of the package; a package of their own, so that they share `tests.tiny`."""
