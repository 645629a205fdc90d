"""Properties of a single text: its language, its script, its blocks and shingles, its cleaning profile."""
