"""Commands of the platform team; nothing imports this package except its own tests."""
