# Each target sets up what it needs, in .venv and target/; only Rust (cargo) and Python >= 3.10 must be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The interpreter that the bindings are built for; any will do, as the wheel is abi3.
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python

SOURCES := Cargo.toml Cargo.lock pyproject.toml .cargo/config.toml $(shell find rust python -type f -not -path '*/__pycache__/*')

.PHONY: demo demo-mpi demo-dask demo-precise experiment-ranges experiment-momentum experiment-batch-size \
        experiment-beyond test test-bits test-huge lint format bench accuracy wheel clean
.DEFAULT_GOAL := test

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "normkit needs Python 3.10 or newer: make PYTHON=..."'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# Builds and installs the package with what an extra needs; again whenever a source changes.
$(VENV)/.installed-%: $(SOURCES) | $(BIN)/python
	@echo 'Building normkit and installing what "$*" needs (a few minutes the first time)'
	$(BIN)/python -m pip install --quiet '.[$*]'
	@touch $@

# The main job: two trainings on real images, with tables and plots in out/.
demo: $(VENV)/.installed-examples
	$(BIN)/python examples/demo.py $(ARGS)

# Data-parallel training with SyncBatchNorm: 3 MPI ranks beside 1, with a table and a plot in out/.
demo-mpi: $(VENV)/.installed-examples
	$(BIN)/python examples/data_parallel.py $(ARGS)

# Moments of an array on disk by dask workers with little memory, with a table and a plot in out/.
demo-dask: $(VENV)/.installed-examples
	$(BIN)/python examples/out_of_core.py $(ARGS)

# What precise batch-norm statistics change, beside the moving average, with a table and a plot in out/.
demo-precise: $(VENV)/.installed-examples
	$(BIN)/python examples/precise_bn.py $(ARGS)

# The experiments of docs/experiments.md: tables, verdicts and pictures in out/. ARGS=--quick for a first look.
experiment-ranges: $(VENV)/.installed-examples
	$(BIN)/python examples/feature_ranges.py $(ARGS)

experiment-momentum: $(VENV)/.installed-examples
	$(BIN)/python examples/ema_momentum.py $(ARGS)

experiment-batch-size: $(VENV)/.installed-examples
	$(BIN)/python examples/batch_size.py $(ARGS)

experiment-beyond: $(VENV)/.installed-examples
	$(BIN)/python examples/beyond_batchnorm.py $(ARGS)

# All tests: the core crate's, then the Python package's.
test: $(VENV)/.installed-dev
	cargo test --workspace
	$(BIN)/python -m pytest $(ARGS)

# The same bits: the whole product of norms, layouts, dtypes, shapes, threads and instruction sets. Half an hour.
test-bits: $(VENV)/.installed-dev
	$(BIN)/python tests/bits_whole.py $(ARGS)

# Arrays of more than 2**31 elements on sparse files: 9 GB of disk (pytest's temporary folder), some minutes.
test-huge: $(VENV)/.installed-dev
	NORMKIT_HUGE=1 $(BIN)/python -m pytest tests/test_huge.py $(ARGS)

# Format, lints, types, and the README's tables; warnings are errors.
lint: $(VENV)/.installed-dev
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
	RUSTDOCFLAGS='--deny warnings' cargo doc --workspace --no-deps --quiet
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	cd / && $(CURDIR)/$(BIN)/python -m mypy.stubtest normkit
	$(BIN)/python benches/peers/table.py --check
	$(BIN)/python benches/peers/norms.py --check
	$(BIN)/python benches/peers/accuracy.py --check
	$(BIN)/python tests/users/page.py --check

format: $(VENV)/.installed-dev
	cargo fmt --all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Side by side with PyTorch, JAX and oneDNN; a dated record under benches/record/. Wants an idle machine.
bench: $(VENV)/.installed-bench
	$(BIN)/python benches/peers/run.py $(ARGS)

# The largest error of every norm by distribution, beside peers: a record, docs/accuracy.md and its picture.
accuracy: $(VENV)/.installed-bench
	$(BIN)/python benches/peers/accuracy.py $(ARGS)

# An abi3 wheel in dist/.
wheel: $(BIN)/python
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) target dist out
