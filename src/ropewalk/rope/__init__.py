"""How positions become angles: each method is a frozen value with checks of its reach. Needs no torch."""
