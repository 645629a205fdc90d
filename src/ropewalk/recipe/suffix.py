"""The file suffixes that distinguish a recipe or a study from a model's folder. Imports nothing."""

YAML = (".yaml", ".yml")
