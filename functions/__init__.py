"""The bundle that is deployed into the broker: pure operators and thin Pulsar adapters."""
