"""The report of a run as one page that needs no network. Importing it needs no torch."""
