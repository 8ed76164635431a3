"""Functions: what the running function instances report about themselves."""
