"""Requests that carry an `Idempotency-Key` are carried out once, however often they are sent."""
