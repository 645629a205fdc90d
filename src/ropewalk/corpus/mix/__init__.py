"""Which tokens a stage reads and in which order: mixture weights, strata, packing, the dataset."""
