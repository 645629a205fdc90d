"""Continued pretraining: a step is a function, and the loop calls it for each step."""
