"""The OpenAPI description: what Litestar makes of the routes, made exact and given examples."""
