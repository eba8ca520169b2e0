# `make demo` finds a circuit and draws it; `make test` runs the tests. Both set up .venv first, from constraints.txt.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo install test test-slow lint golden bench clean

demo: $(INSTALLED)
	$(BIN)/circuitfind models pull smollm2-135m
	$(BIN)/circuitfind run ioi --model smollm2-135m --prompts 8 --threshold 0.02 --schedule grouped

install: $(INSTALLED)

# The constraints stand in the environment, so that they hold for the build backend too.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "circuitfind needs Python 3.11 or later. Name one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

test: lint
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadfile

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow --numprocesses auto --dist loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

golden: $(INSTALLED)
	REGENERATE=1 $(BIN)/python -m pytest -q -k golden

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.run_ioi
	$(BIN)/python -m benchmarks.acdc_speed

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
