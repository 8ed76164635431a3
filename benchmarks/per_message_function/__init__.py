"""The function that the service is compared with, in a bundle of its own."""
