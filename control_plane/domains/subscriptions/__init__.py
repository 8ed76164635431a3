"""Subscriptions: a consumer's registered interest, and the view it points at."""
