"""Documents out of whatever a source is: records, conversations, pages, code trees, data sets."""
