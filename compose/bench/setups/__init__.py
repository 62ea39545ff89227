"""How our contestants and the plain backbone are set up: one file per kind of work."""
