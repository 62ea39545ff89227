"""Files and data sets as rows: one file per format, each row with the place that errors name. Needs no torch."""
