"""The contract that all share, and the clients that keep it.

Publish with `marketdata.publisher.Publisher`, consume with `marketdata.consumer.Consumer` (or their
counterparts in `marketdata.aio`); the events are record batches of `marketdata.schemas`.
"""
