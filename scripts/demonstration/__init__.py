"""The parts of `scripts/demo.py`.

data            the events to publish: real bars, a file, or synthetic ticks
subscriptions   what the demo subscribes to, in SQL and once more in NumPy
session         one run: subscribe, consume, publish, check
show            progress and the final table
"""
