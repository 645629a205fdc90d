"""Seeded prompts with known answers: text only, no model and no torch."""
