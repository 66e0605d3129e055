PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all bench lint typecheck clean

# The stamp is newer than pyproject.toml when the environment is whole.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "torch>=2.6,<2.14"
	$(BIN)/pip install --quiet -e ".[dev]"
	touch $@

# A microscope session is simulated, micrograph by micrograph, while beamside classifies it.
demo: .venv/installed
	rm -rf demo
	mkdir -p demo
	$(BIN)/beamside simulate particles demo/session --live --n 4000 --rate 100 >demo/microscope.log 2>&1 & \
	  microscope=$$!; trap 'kill $$microscope 2>/dev/null || true' EXIT INT TERM; \
	  while [ ! -d demo/session ] && kill -0 $$microscope 2>/dev/null; do sleep 0.2; done; \
	  $(BIN)/beamside classify demo/session demo/run --watch --idle-close 10s --first-batch 2000 --batch-size 1000 --classes 20
	@echo "The class averages are in $$(ls $(CURDIR)/demo/run/result/*.png)"

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: .venv/installed
	$(BIN)/mypy

test: lint typecheck
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile -m "not slow and not gpu"

test-all: lint typecheck
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile

bench: .venv/installed
	$(BIN)/python benchmarks/classify.py
	$(BIN)/python benchmarks/ptycho.py --rate --real
	$(BIN)/python benchmarks/denoise.py

clean:
	rm -rf .venv demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
