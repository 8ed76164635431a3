"""Consumers: who receives events; owner of subscriptions."""
