"""The state of a training run as a folder that appears whole."""
