"""What is known about a text by itself: its language, its script, its blocks and shingles, its cleaning profile."""
