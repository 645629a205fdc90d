"""How positions turn into angles: every method a frozen value, and what it can reach. Needs no torch."""
