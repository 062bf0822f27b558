# Needs Python 3.11 or newer with its venv module and headers, and a C compiler
# (Debian and Ubuntu: apt install make gcc python3-venv python3-dev). All else goes into $(VENV).

PYTHON ?= python3
VENV ?= .venv
DEMO := build/demo
BIN := $(VENV)/bin

.PHONY: demo test check clean

demo: $(BIN)/python
	rm -rf build/lib*  # a stale one would ship deleted modules
	$(BIN)/pip install --quiet --constraint constraints.txt .
	mkdir -p $(DEMO)
	$(BIN)/rhodec encode --verbose tests/data/kodim23.png $(DEMO)/kodim23.rho
	$(BIN)/rhodec decode $(DEMO)/kodim23.rho $(DEMO)/kodim23.png
	@ls -l tests/data/kodim23.png $(DEMO)/kodim23.rho $(DEMO)/kodim23.png

test: $(BIN)/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pytest

check:
	$(BIN)/ruff check
	$(BIN)/pyright --pythonpath $(BIN)/python

# Fails early, with a hint, where the interpreter is too old.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rhodec needs Python 3.11 or newer; try: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

clean:
	rm -rf build dist .venv *.egg-info .pytest_cache .ruff_cache
