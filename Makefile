# Each target sets up what it needs, in .venv and target/; only Rust (cargo) and Python >= 3.10 must be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The interpreter that the bindings are built for; any will do, as the wheel is abi3.
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python

SOURCES := Cargo.toml Cargo.lock pyproject.toml .cargo/config.toml $(shell find rust python -type f -not -path '*/__pycache__/*')

.PHONY: demo demo-mpi demo-dask demo-precise experiment-ranges experiment-momentum experiment-batch-size \
        experiment-beyond test lint format bench wheel clean differential fuzz sanitize sanitize-address \
        sanitize-thread valgrind
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
	$(BIN)/python docs/unsafe_table.py --check

format: $(VENV)/.installed-dev
	cargo fmt --all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Side by side with PyTorch, JAX and oneDNN; a dated record under benches/record/. Wants an idle machine.
bench: $(VENV)/.installed-bench
	$(BIN)/python benches/peers/run.py $(ARGS)

# A million random calls of the core against its oracle, in worker processes: about half an hour on two cores.
# ARGS='--cases 20000', ARGS='--seed 7', ARGS='--case 123' to make one again and print it.
differential:
	cargo run --quiet --profile checked -p normkit-fuzz --bin differential -- $(ARGS)

# The same calls, steered by the code they reach, with AddressSanitizer; until stopped, or ARGS=-max_total_time=600.
# What it finds goes to out/fuzz, what fails to rust/normkit-fuzz/artifacts. (cargo-fuzz asks for a nightly compiler; a
# stable one does with RUSTC_BOOTSTRAP.)
fuzz:
	cargo fuzz --version || cargo install --locked cargo-fuzz
	mkdir -p out/fuzz
	RUSTC_BOOTSTRAP=1 cargo fuzz run calls --fuzz-dir rust/normkit-fuzz --features libfuzzer --release \
		--target-dir target/fuzz out/fuzz rust/normkit-fuzz/corpus -- -max_len=512 -timeout=60 $(ARGS)

HOST = $(shell rustc -vV | sed -n 's/^host: //p')
# The standard library is as it comes, not instrumented: what it does itself is seen only where it calls malloc, memcpy
# or a lock.
sanitized = RUSTC_BOOTSTRAP=1 NORMKIT_FUZZ_CASES=$(or $(CASES),3000) \
	RUSTFLAGS='-Zsanitizer=$(1) -Cunsafe-allow-abi-mismatch=sanitizer' \
	cargo test --profile sanitize --target $(HOST) --target-dir target/$(1)

# The core's tests and random calls with AddressSanitizer, what threads share with ThreadSanitizer.
sanitize: sanitize-address sanitize-thread

sanitize-address:
	$(call sanitized,address) -p normkit -p normkit-fuzz --lib --tests -- $(ARGS)

sanitize-thread:
	$(call sanitized,thread) -p normkit --test it -- bits:: plan:: fold_large $(ARGS)
	$(call sanitized,thread) -p normkit-fuzz --test corpus -- $(ARGS)

# Valgrind's memcheck, which knows no AVX-512: the core detects AVX2 then. Small tests, as it is fifty times slower.
valgrind:
	for isa in avx2 baseline; do \
		NORMKIT_ISA=$$isa NORMKIT_FUZZ_CASES=$(or $(CASES),400) \
		CARGO_TARGET_$(shell echo $(HOST) | tr a-z- A-Z_)_RUNNER='valgrind --quiet --error-exitcode=9 --leak-check=no' \
		cargo test -p normkit-fuzz --test corpus -- --test-threads=1 $(ARGS) || exit 1; \
	done

# An abi3 wheel in dist/.
wheel: $(BIN)/python
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) target dist out
