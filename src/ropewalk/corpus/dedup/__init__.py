"""Copies of documents and evaluation prompts, found by MinHash and n-grams."""
