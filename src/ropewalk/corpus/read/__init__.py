"""Reads the documents of a source of any kind: records, conversations, pages, code trees, datasets."""
