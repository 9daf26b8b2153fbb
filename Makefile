# Each target sets up what it needs, in .venv and target/; only Rust (cargo) and Python >= 3.10 must be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The interpreter that the bindings are built for; any will do, as the wheel is abi3.
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python

SOURCES := Cargo.toml Cargo.lock pyproject.toml .cargo/config.toml $(shell find rust python -type f -not -path '*/__pycache__/*')

.PHONY: demo demo-mpi demo-dask demo-precise experiment-ranges experiment-momentum experiment-batch-size \
        experiment-beyond test test-bits test-huge lint format bench bench-limit bench-cliffs roofline accuracy differential \
        fuzz sanitize sanitize-address sanitize-thread valgrind dist wheel check-wheel check-old-cpu deny licences docs clean
.DEFAULT_GOAL := test

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "normkit needs Python 3.10 or newer: make PYTHON=..."'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# Builds and installs the package with what an extra needs; again whenever a source changes.
$(VENV)/.installed-%: $(SOURCES) | $(BIN)/python
	@echo 'Building normkit and installing what "$*" needs (3 to 15 minutes the first time)'
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
	$(BIN)/python docs/unsafe_table.py --check

format: $(VENV)/.installed-dev
	cargo fmt --all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Side by side with PyTorch, JAX and oneDNN; a dated record under benches/record/. Wants an idle machine.
bench: $(VENV)/.installed-bench
	$(BIN)/python benches/peers/run.py $(ARGS)

# What the table of targets (benches/peers/targets.py) needs, and the table: reached, missed. Wants an idle machine, for 20
# minutes; stopped, it goes on with its record when started again. ARGS='--targets batch,halves' for some rows.
bench-limit: $(VENV)/.installed-bench
	$(BIN)/python benches/peers/run.py --limit $(ARGS)

# Shapes and values on which a call is slow for its size: tables and a record. Wants an idle machine, for two minutes.
bench-cliffs: $(VENV)/.installed-bench
	$(BIN)/python benches/peers/cliffs.py $(ARGS)

# Bandwidth, roofs and growth: a record, two pictures and a section of docs/explanation/performance.md. Wants an idle machine.
roofline: $(VENV)/.installed-bench
	$(BIN)/python benches/peers/roofline.py $(ARGS)

# A million random calls of the core against its oracle, with all assertions, in a worker process per core; the record goes
# to tests/record, and an unfinished one is gone on with. ARGS='--cases 20000', ARGS='--seed 7', ARGS='--case 123' to make
# one again and print it.
differential:
	cargo run --quiet -p normkit-fuzz --bin differential -- \
		--record tests/record/$(shell date -u +%F)-differential.json $(ARGS)

# The same calls, steered by the code they reach, with AddressSanitizer and all assertions; ten minutes, or
# ARGS=-max_total_time=60. What it finds goes to out/fuzz, what fails to rust/normkit-fuzz/artifacts. (cargo-fuzz asks for a
# nightly compiler; a stable one does with RUSTC_BOOTSTRAP. As it comes, it compiles in one thread, for half an hour.)
fuzz: export CARGO_PROFILE_DEV_OPT_LEVEL = 1
fuzz: export RUSTFLAGS = -Ccodegen-units=64
fuzz: $(BIN)/cargo-fuzz
	mkdir -p out/fuzz
	RUSTC_BOOTSTRAP=1 $(BIN)/cargo-fuzz run calls --fuzz-dir rust/normkit-fuzz --features libfuzzer --dev \
		--target-dir target/fuzz out/fuzz rust/normkit-fuzz/corpus -- -max_len=512 -timeout=60 -max_total_time=600 $(ARGS)

$(BIN)/cargo-fuzz: | $(BIN)/python
	cargo install --locked --root $(VENV) cargo-fuzz

HOST = $(shell rustc -vV | sed -n 's/^host: //p')
# The standard library is as it comes, not instrumented: what it does itself is seen only where it calls malloc, memcpy
# or a lock.
sanitized = RUSTC_BOOTSTRAP=1 NORMKIT_FUZZ_CASES=$(or $(CASES),3000) \
	RUSTFLAGS='-Zsanitizer=$(1) -Cunsafe-allow-abi-mismatch=sanitizer' \
	cargo test --profile sanitize --target $(HOST) --target-dir target/$(1)

# The core's tests and random calls with AddressSanitizer, what threads share with ThreadSanitizer.
sanitize: sanitize-address sanitize-thread

# (Not leaks: a pool of threads that is replaced stays, as a fork may have left it to nobody.)
sanitize-address: export ASAN_OPTIONS = detect_leaks=0
sanitize-address:
	$(call sanitized,address) -p normkit -p normkit-fuzz --lib --tests -- $(ARGS)

# (Without assertions: the list that they keep is behind a lock of the standard library, whose waiting is not seen. rayon's
# sleeping workers, what they set up once (crossbeam's collector, behind the library's Once), and what libtest itself shares with
# a test's thread, are left out for the same reason.)
sanitize-thread: export TSAN_OPTIONS = suppressions=$(CURDIR)/tools/tsan.supp
sanitize-thread: export CARGO_PROFILE_SANITIZE_DEBUG_ASSERTIONS = false
sanitize-thread:
	$(call sanitized,thread) -p normkit --test it -- bits:: plan:: fold_large $(ARGS)
	$(call sanitized,thread) -p normkit-fuzz --test corpus -- $(ARGS)

# Valgrind's memcheck on random calls with AVX2 and the baseline (it knows no AVX-512, and hides it from programs). Few calls,
# as it is fifty times slower.
valgrind:
	valgrind --version # Debian: valgrind
	NORMKIT_FUZZ_CASES=$(or $(CASES),400) \
		CARGO_TARGET_$(shell echo $(HOST) | tr a-z- A-Z_)_RUNNER='valgrind --quiet --error-exitcode=9 --leak-check=no' \
		cargo test -p normkit-fuzz --test corpus -- --test-threads=1 $(ARGS)

# The largest error of every norm by distribution, beside peers: a record, docs/accuracy.md and its picture.
accuracy: $(VENV)/.installed-bench
	$(BIN)/python benches/peers/accuracy.py $(ARGS)

# What builds and checks wheels, beside the package and without it.
$(VENV)/.tools-wheel: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --group wheel
	@touch $@

dist/.sdist: $(SOURCES) README.md LICENSE THIRD-PARTY-LICENSES.txt | $(VENV)/.tools-wheel
	rm -f dist/*.tar.gz
	$(BIN)/maturin sdist --out dist
	@touch $@

dist/.wheel: dist/.sdist tools/build_wheel.py
	rm -f dist/*.whl
	$(BIN)/python tools/build_wheel.py dist/normkit-*.tar.gz dist
	@touch $@

# The source distribution in dist/.
dist: dist/.sdist

# A manylinux abi3 wheel in dist/, built from the source distribution in a fresh environment elsewhere.
wheel: dist/.wheel

# Contents, licences, auditwheel, abi3audit, and the smoke test by every Python here, with the oldest and newest NumPy.
check-wheel: dist/.wheel
	$(BIN)/python tools/check_wheel.py dist/normkit-*.whl $(ARGS)

# The same wheel on emulated CPUs, without AVX and without AVX-512. Needs qemu-x86_64 (Debian: qemu-user).
check-old-cpu: dist/.wheel
	$(BIN)/python tools/check_old_cpu.py dist/normkit-*.whl

$(BIN)/cargo-deny: | $(BIN)/python
	cargo install --locked --root $(VENV) cargo-deny

$(BIN)/cargo-about: | $(BIN)/python
	cargo install --locked --root $(VENV) --features cli cargo-about

# Licences, duplicates and sources of all dependencies, then advisories. Their database comes from GitHub, or from a
# clone of it: make deny ADVISORY_DB=DIR.
ADVISORIES := https://github.com/RustSec/advisory-db
deny: export GIT_CONFIG_COUNT = $(if $(ADVISORY_DB),1)
deny: export GIT_CONFIG_KEY_0 = url.file://$(abspath $(ADVISORY_DB)).insteadOf
deny: export GIT_CONFIG_VALUE_0 = $(ADVISORIES)
deny: $(BIN)/cargo-deny
	$(BIN)/cargo-deny --locked check licenses bans sources
	$(BIN)/cargo-deny --locked check advisories

# The licences of the crates in the wheel; to be committed. A test says when it is due.
licences: $(BIN)/cargo-about
	$(BIN)/cargo-about generate --offline --locked --fail --config tools/about.toml \
	  --manifest-path rust/normkit-python/Cargo.toml --output-file THIRD-PARTY-LICENSES.txt tools/about.hbs

# The documentation in out/docs/; warnings are errors.
docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --nitpicky --jobs auto --quiet docs out/docs $(ARGS)
	@echo out/docs/index.html

clean:
	rm -rf $(VENV) target dist out
