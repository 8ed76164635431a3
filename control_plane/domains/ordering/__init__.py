"""The order of sources: what was found in it, which gaps are open, where instruments stand."""
