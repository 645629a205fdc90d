"""A forecast of a run's arithmetic, memory and traffic, before it starts. Needs no torch."""
