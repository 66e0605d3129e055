PYTHON ?= python3
BIN := .venv/bin
ORACLES := .venv-oracles
ORACLE_TESTS := tests/sources/test_tiled_scan.py tests/sources/test_micrographs.py tests/ptycho/test_ptychodus.py

.PHONY: demo test test-all oracles bench lint typecheck clean

# The stamp is newer than pyproject.toml when the environment is whole.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "torch>=2.6,<2.14"
	$(BIN)/pip install --quiet -e ".[dev]"
	touch $@

# Servers and readers that only tests ask, and that the other tests must not meet: pyarrow, which comes with one of them,
# starts a thread, and processes are forked there. All that .venv has is seen here too.
$(ORACLES)/installed: pyproject.toml .venv/installed
	rm -rf $(ORACLES)
	$(BIN)/python -m venv $(ORACLES)
	there=$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))"); \
	  here=$$($(ORACLES)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))"); \
	  echo "import site; site.addsitedir('$$there')" >"$$here/beamside-venv.pth"
	$(ORACLES)/bin/pip install --quiet --no-compile -e ".[oracles]"
	touch $@

# A test that fails, or is skipped, fails this; an environment that cannot be made, without a network, is only said.
oracles: .venv/installed
	@if $(MAKE) --no-print-directory $(ORACLES)/installed; then \
	  OMP_NUM_THREADS=1 $(ORACLES)/bin/python -m pytest -m oracle --no-skips $(ORACLE_TESTS); \
	else \
	  echo; echo "*** NOT TESTED: $(ORACLES) could not be made (see above), so nothing was compared with Tiled's server,"; \
	  echo "*** an EER decoder and ptychodus. With a network, \`make oracles\` makes up for it."; \
	fi

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
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile -m "not slow and not gpu and not oracle"
	$(MAKE) --no-print-directory oracles

test-all: lint typecheck
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile -m "not oracle"
	$(MAKE) --no-print-directory oracles

bench: .venv/installed
	$(BIN)/python benchmarks/classify.py
	$(BIN)/python benchmarks/ptycho.py --rate --real
	$(BIN)/python benchmarks/denoise.py

clean:
	rm -rf .venv $(ORACLES) demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
