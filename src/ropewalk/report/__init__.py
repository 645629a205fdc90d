"""What happened in a run, as one page that needs no network. Needs no torch at import."""
