# Needs Python 3.11 or newer with its venv module and headers, and a C compiler
# (Debian and Ubuntu: apt install make gcc python3-venv python3-dev). All else goes into $(VENV).

PYTHON ?= python3
VENV ?= .venv
DEMO := build/demo
BIN := $(VENV)/bin

.PHONY: demo test check results clean

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

# All numbers of RESULTS.md and README.md, from files on disk; KODAK is the folder of the 24 PNGs.
# Under an hour on two cores from an empty cache (results/cache), seconds from a full one.
KODAK ?= kodak
JOBS ?= 2
ANCHORS := jpeg webp jpeg2000 avif jxl hevc vvc vtm-9.1 elic cool-chic-5.0 bpg444 \
	compressai-bmshj2018-hyperprior_mse_cuda compressai-mbt2018-mean_mse_cuda
results: $(BIN)/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[evaluate]'
	$(BIN)/rhodec evaluate $(KODAK) --jobs $(JOBS) --codec rho --codec rho-msssim --codec hyperprior \
		$(addprefix --anchor ,$(ANCHORS)) --against vvc --against vtm-9.1 --against jpeg \
		--method pchip --method cubic --plot results/rd_psnr.svg --latex results/tables.tex \
		--out results --report RESULTS.md
	$(BIN)/rhodec plot results/rho.json results/hyperprior.json results/vvc.json \
		results/hevc.json results/avif.json results/webp.json results/jxl.json \
		results/jpeg2000.json results/jpeg-420.json vtm-9.1 -o results/rd_psnr.svg
	$(BIN)/python docs/comparison.py
	$(BIN)/python docs/readme_table.py

check:
	$(BIN)/ruff check
	$(BIN)/pyright --project pyproject.toml --pythonpath $(BIN)/python

# Fails early, with a hint, where the interpreter is too old.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rhodec needs Python 3.11 or newer; try: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

clean:
	rm -rf build dist .venv *.egg-info .pytest_cache .ruff_cache
