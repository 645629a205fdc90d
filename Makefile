# make quickstart: install, then stretch the tiny base model from 512 to 2048 tokens on this machine.
# make test: install, then the whole test suite. make wheel-test: the built wheel, in fresh environments (SHARE=1: with this
# one's packages). make faults: everything that breaks training, done to it (an hour, goes on
# where it stopped). make gpu-wheels and make gpu-dry: before benchmarks/gpu_report.py on a GPU (docs/gpu.md).
# TORCH_INDEX=URL takes torch from another index (another build of it).

PYTHON ?= python3
WHEEL_PYTHONS ?= $(PYTHON)
VENV := .venv
BIN := $(VENV)/bin
GPU_PACKAGES := pydantic pydantic-core typing-extensions annotated-types typing-inspection zstandard ftfy wcwidth py3langid beartype jaxtyping liger-kernel
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# Python's own pip can be old: 23.2 takes 50 seconds to choose all versions where 26.3 takes 17. It and setuptools come first, so
# that this package is built with them, not in an environment of its own.
# pip would compile 18,000 files on one core. A file that does not compile is no module of this Python.
COMPILE := $(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib || true

.PHONY: quickstart notebook wheel-test test conformance faults check docs gpu-wheels gpu-dry clean

define install
$(PYTHON) -m venv $(VENV)
$(INSTALL) pip setuptools
$(if $(TORCH_INDEX),$(INSTALL) --index-url $(TORCH_INDEX) torch)
$(INSTALL) --no-build-isolation -e "$(1)"
endef

$(VENV)/.installed: pyproject.toml constraints.txt
	$(call install,.)
	@$(COMPILE)
	@touch $@

# In two parts: mypy needs the first, and runs on one core while pip installs the second on the other. Tests import 4,400 of
# 18,400 files, so these are compiled at their first import, also where the environment forbids it: else each process
# compiles them again.
unexport PYTHONDONTWRITEBYTECODE
$(VENV)/.checker: pyproject.toml constraints.txt
	$(call install,.[check])
	@touch $@

$(VENV)/.workshop: $(VENV)/.checker
	$(INSTALL) --no-build-isolation -e ".[test,check,docs]"
	@touch $(VENV)/.installed $@

quickstart: $(VENV)/.installed
	$(BIN)/ropewalk run recipes/quickstart.yaml

# One thread for each worker: with two threads each, they wait for one another. Four on two cores: ranks wait for messages, and
# tests for processes.
WORKERS ?= 4
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --workers $(WORKERS)

test: $(VENV)/.workshop
	$(TESTS)

# The wheel alone, in a fresh environment and an empty folder. WHEEL_PYTHONS="python3.11 python3.12 python3.13" tries several;
# SHARE=1 takes the dependencies from $(VENV), for one Python, instead of installing them, and tries 4 steps instead of 20:
# it tells whether the wheel is whole.
FEW := $(if $(SHARE),stages.0.tokens=32Ki evaluate.answers=8)
wheel-test: $(VENV)/.workshop
	rm -rf build && mkdir -p build/away
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/dist .
	set -e; for python in $(WHEEL_PYTHONS); do \
	  rm -rf build/fresh build/away/*; $$python -m venv $(if $(SHARE),--without-pip) build/fresh; \
	  if [ -n "$(SHARE)" ]; then \
	    $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$(echo build/fresh/lib/python3*/site-packages)/shared.pth"; \
	    $(BIN)/python -m pip --python build/fresh/bin/python install --quiet --no-deps --no-index build/dist/*.whl; \
	  else \
	    build/fresh/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	      $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) build/dist/*.whl; \
	  fi; \
	  (cd build/away && ../fresh/bin/ropewalk --version && ../fresh/bin/ropewalk run quickstart --fast $(FEW) && test -f runs/quickstart-fast/report.html); \
	done

# The cells of examples/stretch.ipynb in order, in runs/notebook; ends with 1 where that takes more than five minutes.
notebook: $(VENV)/.installed
	$(BIN)/python benchmarks/run_notebook.py

conformance: $(VENV)/.workshop
	$(TESTS) tests/conformance
	PYTHONPATH=tests $(BIN)/python -m conformance.models_page

faults: $(VENV)/.workshop
	PYTHONPATH=tests $(BIN)/python -m faults --table --results runs/faults/figures.json

check: $(VENV)/.checker
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/mypy

gpu-wheels: $(VENV)/.installed
	$(BIN)/python -m pip download --quiet --no-deps -c constraints.txt --only-binary=:all: --python-version 3.12 --implementation cp \
	  --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux_2_28_x86_64 -d wheels $(GPU_PACKAGES)

gpu-dry: $(VENV)/.workshop
	$(BIN)/python benchmarks/gpu_report.py --dry-run --out runs/gpu/dry.json

docs: $(VENV)/.workshop
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir site

clean:
	rm -rf $(VENV) runs store site
