"""Tokens that the control plane issued, and those that are revoked."""
