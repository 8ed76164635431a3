"""Publishers: who sends events, from where, and of which sources."""
