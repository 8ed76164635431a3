"""Alerts: what is told as an event when it begins, and stands until it is over."""
