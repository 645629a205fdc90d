"""What every room stands on: quantities, errors, digests, finished folders, records, seeds. Needs no torch."""
