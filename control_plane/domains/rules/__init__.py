"""Routing rules: which events may go to which consumers, in an order that decides."""
