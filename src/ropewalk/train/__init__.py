"""Continued pretraining: a step is a function, the loop a while."""
