"""Shared transformations: named, in versions that never change, for subscriptions to refer to."""
