"""Cleans and measures one document: normalises it, and removes boilerplate and personal data."""
