"""The schemas of events, to be downloaded."""
