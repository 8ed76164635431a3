"""What a proposed change would do, tried on the last minutes of the log."""
