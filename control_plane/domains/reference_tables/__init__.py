"""Reference tables: rows that transformations join to events, and their versions."""
