"""How the file of a recipe or a study is told from a model's folder: by how its name ends. Imports nothing."""

YAML = (".yaml", ".yml")
