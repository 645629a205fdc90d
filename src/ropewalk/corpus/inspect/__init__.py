"""Shows the content of a corpus and the dropped text, so that a person can judge it."""
