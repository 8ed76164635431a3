"""Events: what changes, told to whoever listens (`GET /v1/events`)."""
