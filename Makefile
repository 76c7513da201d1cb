# The two commands of the README: `make audit` and `make test`. Both need Python >= 3.11 and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/demo

.PHONY: help audit test test-all lint format bench bench-long wheel-test coverage clean

help:
	@echo "make audit      install, then audit the shipped model on generated breast-ultrasound phantoms into $(RUN)"
	@echo "make test       install what is missing, then run the tests (under 10 minutes on 2 cores)"
	@echo "make test-all   also the slow proofs"
	@echo "make lint       ruff and mypy"
	@echo "make bench      side-by-side benchmarks into benchmarks/results.json"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("xaiseg needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.user: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@ $(VENV)/.user

# Ends well when an audit was written, whatever its verdict; a usage error or an interruption stays an error.
audit: $(VENV)/.user
	@$(BIN)/xaiseg audit examples/clinical/model.yaml --protocol clinical --out $(RUN); code=$$?; \
	case $$code in 0|1|3|4) exit 0;; *) exit $$code;; esac

test: $(VENV)/.dev
	$(BIN)/python -m pytest

test-all: $(VENV)/.dev
	$(BIN)/python -m pytest -m "slow or not slow"

coverage: $(VENV)/.dev
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# vision-explanation-methods pins an old matplotlib, so it comes without its requirements.
$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --no-deps vision-explanation-methods==0.1.1
	@touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

bench-long: $(VENV)/.bench
	$(BIN)/python -m benchmarks --long $(if $(DATA),--data $(DATA)) $(if $(MODELS),--models $(MODELS))

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
