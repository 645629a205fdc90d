"""Save and load the state of a training run: a checkpoint folder appears complete or not at all."""
