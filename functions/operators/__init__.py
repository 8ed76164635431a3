"""Operators: pure functions over record batches. No Pulsar, no clock, no randomness, no I/O."""
