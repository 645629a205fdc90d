"""The interface to transformers: load, extend, attend, loss, export. No other folder imports transformers."""
