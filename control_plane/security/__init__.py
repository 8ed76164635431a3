"""Who calls, and what the caller may do: signing keys, tokens, roles, revocation."""
