"""A `Comparison` for people and programs: table, page, CSV, JSON."""
