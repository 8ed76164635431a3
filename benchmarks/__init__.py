"""What the performance figures of the project come from; run by `scripts/bench.py`."""
