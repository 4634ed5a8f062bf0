# Each target sets up all it needs in .venv; PYTHON and TORCH_INDEX may be given:
#   make test PYTHON=python3.12 TORCH_INDEX=<address of a package index that holds CPU builds of torch>
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
OUT ?= onfh-demo

.PHONY: help demo test lint check-platforms bench train clean

help:
	@echo "make demo    analyse a phantom study with the demo bundle (writes $(OUT)/)"
	@echo "make test    every check: ruff, mypy, pytest"
	@echo "make bench   the figures of benchmarks/README.md"
	@echo "make train   re-run the recipe of the demo stages (writes runs/; about an hour on two cores)"

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 10) else None'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "python3-venv is missing. On Debian or Ubuntu: sudo apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/runtime: $(VENV)/created setup.py pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

$(VENV)/dev: $(VENV)/runtime
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(PIP) --editable '.[dev,export]'
	@touch $@

demo: $(VENV)/runtime
	$(BIN)/onfh demo --out $(OUT)

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

check-platforms: $(VENV)/created
	$(BIN)/python benchmarks/check_platforms.py

bench: $(VENV)/dev
	$(BIN)/python benchmarks/spine.py

train: $(VENV)/dev
	$(BIN)/onfh train runs/phantoms --phantoms --out runs/demo

clean:
	rm -rf $(VENV) onfh-demo build *.egg-info
