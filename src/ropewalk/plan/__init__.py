"""What a run will cost in arithmetic, memory and traffic, before it starts. Needs no torch."""
