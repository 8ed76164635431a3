"""Groups: the members of one subscription, what each reads, and how that changes."""
