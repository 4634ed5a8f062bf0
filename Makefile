# Each target sets up all it needs in .venv; PYTHON and TORCH_INDEX may be given:
#   make test PYTHON=python3.12 TORCH_INDEX=<address of a package index that holds CPU builds of torch>
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
OUT ?= onfh-demo

# Where a record goes: its name has the machine in it.
record = benchmarks/results/$(1)-$(shell $(BIN)/python benchmarks/run.py --say-machine).json

.PHONY: help demo test lint triton-server gpu-check gpu-packages check-platforms bench bench-compare bench-export bench-overhead bench-cpu-options bench-peers plots soak soak-short train clean

help:
	@echo "make demo    analyse a phantom study with the demo bundle (writes $(OUT)/)"
	@echo "make test    every check: ruff, mypy, pytest"
	@echo "make triton-server  a real Triton server in .venv-triton (450 MB), which some tests then use"
	@echo "make bench   every suite and what an analysis costs (40 minutes); make bench-export: what an export costs"
	@echo "make bench-compare REVISION=...  suites against another commit; make bench-peers: beside MONAI, SimpleITK, OpenVINO"
	@echo "make plots   plots and the README's tables, from what was recorded"
	@echo "make soak    a node under faults, and over 500 studies (an hour); make soak-short: five minutes"
	@echo "make gpu-check     tests and figures of this machine's GPU, under eight minutes (WHEELS=folder)"
	@echo "make gpu-packages  PyCUDA and CuPy, for the tests of a driver without a GPU"
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
	$(PIP) --editable '.[codecs,dev,evaluate,export,listen,measure,rtx,triton]'
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

GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

gpu-check:
	$(GPU_PYTHON) benchmarks/gpu_check.py $(if $(WHEELS),--wheels $(WHEELS))

$(VENV)/gpu: $(VENV)/dev benchmarks/pycuda_wheel.py
	$(PIP) cupy-cuda13x nvidia-cuda-runtime nvidia-cuda-profiler-api mako platformdirs pytools setuptools wheel
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --no-build-isolation --dest $(VENV)/pycuda pycuda==2026.1
	$(BIN)/python benchmarks/pycuda_wheel.py $(VENV)/pycuda/pycuda-2026.1.tar.gz $(VENV)/pycuda
	$(PIP) --no-deps $(VENV)/pycuda/pycuda-*.whl
	@touch $@

gpu-packages: $(VENV)/gpu

check-platforms: $(VENV)/created
	$(BIN)/python benchmarks/check_platforms.py

REVISION ?= HEAD
SUITES ?=

bench: $(VENV)/dev
	$(BIN)/python benchmarks/run.py --large
	$(BIN)/python benchmarks/spine.py --json $(call record,spine)

bench-compare: $(VENV)/dev
	$(BIN)/python benchmarks/compare.py --against $(REVISION) $(SUITES)

plots: $(VENV)/dev
	$(BIN)/python benchmarks/plots.py
	$(BIN)/python benchmarks/readme_table.py

bench-export: $(VENV)/dev
	$(BIN)/python benchmarks/upernet_rewrite.py --json $(call record,upernet-rewrite)
	$(BIN)/python benchmarks/export.py --json $(call record,export)

bench-overhead: $(VENV)/dev
	$(BIN)/python benchmarks/overhead.py --json $(call record,overhead)

bench-cpu-options: $(VENV)/dev
	$(BIN)/python benchmarks/cpu_options.py --json $(call record,cpu-options)

# The peers bring their own versions of everything but torch.
.venv-peers/created: benchmarks/peers/requirements.txt constraints.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r benchmarks/peers/requirements.txt
	@touch $@

bench-peers: $(VENV)/dev .venv-peers/created
	$(BIN)/python benchmarks/peers.py --json $(call record,peers)
	$(BIN)/python benchmarks/preprocess_peers.py --json $(call record,preprocess-peers)

soak: $(VENV)/dev
	$(BIN)/python benchmarks/soak.py --json $(call record,listen-soak)

soak-short: $(VENV)/dev
	$(BIN)/python benchmarks/soak.py --short

train: $(VENV)/dev
	$(BIN)/onfh train runs/phantoms --phantoms --out runs/demo

clean:
	rm -rf $(VENV) .venv-triton .venv-peers onfh-demo build *.egg-info
