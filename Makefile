# What a stranger needs: `make demo` and `make test`. Each target sets up all that it needs.
# PYTHON is the interpreter to build with (3.10 to 3.13), VENV the environment it goes into,
# NETWORKS what the demo takes from sample_models/: resnet, dscnn, mlp.

PYTHON ?= python3
VENV ?= .venv
NETWORKS ?= resnet

python := $(VENV)/bin/python
sources := pyproject.toml $(shell find qtool/native -type f)

.DEFAULT_GOAL := help
.PHONY: help setup setup-check demo test check check-native check-arm fuzz docs clean

help:  ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1\n\2/p' $(MAKEFILE_LIST) | xargs -d '\n' -n 2 printf '  make %-13s %s\n'

setup: $(VENV)/.installed  ## Build qtool and install it, and what its tests need, into VENV.
	@:

# The stamps make the second run instant; changing the build or the C++ sources builds again.
$(VENV)/.installed: $(sources)
	@scripts/make_venv.sh "$(PYTHON)" "$(VENV)" test
	@touch $@

setup-check: $(VENV)/.installed-check

$(VENV)/.installed-check: $(VENV)/.installed
	@scripts/make_venv.sh "$(PYTHON)" "$(VENV)" test,check
	@touch $@

demo: setup  ## Freeze, calibrate, quantize and evaluate a sample model; print what came of it.
	@$(python) scripts/demo.py $(NETWORKS)

test: setup  ## Run all tests.
	$(python) -m pytest

check: setup-check check-native  ## Lint, format, types, spelling, and the native tests under sanitizers.
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy
	find qtool/native -name '*.cpp' -o -name '*.h' | xargs $(VENV)/bin/clang-format --dry-run -Werror
	$(VENV)/bin/codespell

check-native: setup-check  ## Run the native tests under ASan and UBSan.
	PATH="$(abspath $(VENV))/bin:$$PATH" scripts/check_native.sh

check-arm: setup-check  ## Cross-compile the kernels for ARM and check them in an emulator.
	PATH="$(abspath $(VENV))/bin:$$PATH" scripts/check_arm.sh

fuzz: setup  ## Feed damaged files to the loaders for two minutes.
	$(python) scripts/fuzz_formats.py --seconds 120

docs: setup  ## Write docs/cli.md again.
	$(python) scripts/make_cli_docs.py

clean:  ## Remove everything that the other targets made.
	rm -rf $(VENV) build dist demo-out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
