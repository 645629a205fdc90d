# make quickstart: install, then stretch the tiny base model from 512 to 2048 tokens on this machine.
# make test: install, then the whole test suite. make faults: everything that breaks training, done to it (an hour, goes on
# where it stopped). TORCH_INDEX=URL takes torch from another index (another build of it).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: quickstart test faults check docs clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(INSTALL) -e .
	@touch $@

$(VENV)/.workshop: $(VENV)/.installed
	$(INSTALL) -e ".[test,check,docs]"
	@touch $@

quickstart: $(VENV)/.installed
	$(BIN)/ropewalk run recipes/quickstart.yaml

test: $(VENV)/.workshop
	$(BIN)/python -m pytest -n 2 --dist worksteal

faults: $(VENV)/.workshop
	PYTHONPATH=tests $(BIN)/python -m faults --table --results runs/faults/figures.json

check: $(VENV)/.workshop
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/mypy

docs: $(VENV)/.workshop
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir site

clean:
	rm -rf $(VENV) runs store site
