"""Finds copies of documents and of evaluation prompts, by MinHash and n-grams."""
