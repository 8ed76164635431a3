"""Adapters between the operators and Pulsar's Python function runtime."""
