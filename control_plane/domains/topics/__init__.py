"""Topics: what there should be, what there is, and how much is in it."""
