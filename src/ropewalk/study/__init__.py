"""All parts of one recipe in order, and sweeps over recipes. Needs no torch at import."""
