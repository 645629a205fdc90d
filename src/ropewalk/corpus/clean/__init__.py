"""One document cleaned and measured: normalised, without boilerplate and personal data."""
