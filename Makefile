# `make demo` finds a circuit and draws it; `make test` runs the tests. Both set up .venv first, from requirements.lock.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
INSTALLED := .venv/.installed

.PHONY: demo install lock test test-slow lint golden bench clean

demo: $(INSTALLED)
	$(BIN)/circuitfind models pull smollm2-135m
	$(BIN)/circuitfind run ioi --model smollm2-135m --prompts 8 --threshold 0.02 --schedule grouped

install: $(INSTALLED)

# Every file but torch's is held against its sha256. torch comes as whichever wheel of its version pip finds, for the CPU
# or with CUDA; its other dependencies are there by then. The build backend is one of the locked packages.
$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "circuitfind needs Python 3.11 or later. Name one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	PIP_BUILD_CONSTRAINT=constraints.txt $(PIP) install --no-deps --require-hashes --requirement requirements.lock
	PIP_CONSTRAINT=constraints.txt $(PIP) install torch
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(PIP) check
	touch $@

# From the versions in constraints.txt; uv knows the hashes of all files of a release without fetching them.
lock:
	$(PYTHON) -m venv .venv/lock
	.venv/lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	UV_CUSTOM_COMPILE_COMMAND="make lock" .venv/lock/bin/uv pip compile --quiet --no-deps --no-annotate \
		--generate-hashes --no-emit-package torch --output-file requirements.lock constraints.txt
	rm -r .venv/lock

test: lint
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadfile

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow --numprocesses auto --dist loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

golden: $(INSTALLED)
	REGENERATE=1 $(BIN)/python -m pytest -q -k "golden and not golden_runs"
	$(BIN)/python -m tests.golden_runs.record --write

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.run_ioi
	$(BIN)/python -m benchmarks.acdc_speed

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
