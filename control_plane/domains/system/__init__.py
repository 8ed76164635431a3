"""The control plane itself: health, readiness and metrics."""
