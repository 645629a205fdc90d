"""A whole run as one frozen value: read, overridden, checked. Needs no torch."""
