"""Selects and orders the tokens that a stage reads: mixture weights, strata, packing, the dataset."""
