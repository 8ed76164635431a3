"""Dead letters: what the functions could not process, to look at and to send again."""
