"""Basics that all rooms use: quantities, errors, digests, finished folders, records and seeds. Needs no torch."""
