"""A model's shape, read from its config.json in either rope dialect. Needs no torch."""
