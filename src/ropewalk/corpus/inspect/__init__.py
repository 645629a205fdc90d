"""What a corpus holds and what was dropped from it, for a person to judge."""
