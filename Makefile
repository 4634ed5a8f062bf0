# Each target sets up all it needs in .venv; PYTHON and TORCH_INDEX may be given:
#   make test PYTHON=python3.12 TORCH_INDEX=<address of a package index that holds CPU builds of torch>
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
OUT ?= onfh-demo

.PHONY: help demo test lint triton-server check-platforms bench bench-export train clean

help:
	@echo "make demo    analyse a phantom study with the demo bundle (writes $(OUT)/)"
	@echo "make test    every check: ruff, mypy, pytest"
	@echo "make triton-server  a real Triton server in .venv-triton (450 MB), which some tests then use"
	@echo "make bench   what an analysis costs; make bench-export: what an export costs"
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
	$(PIP) --editable '.[codecs,dev,evaluate,export,listen,rtx,triton]'
	$(PIP) --no-deps tensorrt-stubs
	@touch $@

demo: $(VENV)/runtime
	$(BIN)/onfh demo --out $(OUT)

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

# The server brings a Python backend and wants another NumPy, so it lives in an environment of its own.
.venv-triton/created: constraints.txt
	$(PYTHON) -m venv .venv-triton
	grep '^onnxruntime==' constraints.txt > .venv-triton/requirements.txt
	.venv-triton/bin/python -m pip install --quiet --disable-pip-version-check nvidia-pytriton==0.7.0 -r .venv-triton/requirements.txt
	@touch $@

triton-server: .venv-triton/created

check-platforms: $(VENV)/created
	$(BIN)/python benchmarks/check_platforms.py

bench: $(VENV)/dev
	$(BIN)/python benchmarks/spine.py

bench-export: $(VENV)/dev
	$(BIN)/python benchmarks/upernet_rewrite.py --json benchmarks/results/upernet-rewrite-2-core-cpu.json
	$(BIN)/python benchmarks/export.py --json benchmarks/results/export-2-core-cpu.json

train: $(VENV)/dev
	$(BIN)/onfh train runs/phantoms --phantoms --out runs/demo

clean:
	rm -rf $(VENV) .venv-triton onfh-demo build *.egg-info
