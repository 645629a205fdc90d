"""The recipe of a whole run as one frozen value: reading, overrides and checks. Needs no torch."""
