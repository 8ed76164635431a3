"""Rolling back: the definitions of an earlier plan are put back, by a plan with a higher number."""
