# make demo    the synthetic walkers: made, prepared, trained on, evaluated; minutes on two cores
# make test    the tests, without the long ones
# make test-all  all tests
# make check   lint, format and types
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all check clean

demo: $(VENV)/installed
	$(BIN)/python -m cstl.train experiment=demo

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto -m "not slow"

test-all: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto

check: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
