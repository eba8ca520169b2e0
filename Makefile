# Two commands on a fresh machine: `make demo` and `make test`. Both set up .venv first, from constraints.txt.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo install test test-slow lint golden bench clean

demo: $(INSTALLED)
	$(BIN)/circuitfind models pull smollm2-135m
	$(BIN)/circuitfind run ioi --model smollm2-135m --prompts 8 --threshold 0.1

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

test: lint
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

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
