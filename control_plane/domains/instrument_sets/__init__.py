"""Instrument sets: lists of instruments that filters name, and their history."""
