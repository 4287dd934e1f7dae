# From nothing: every target builds .venv from the hash-locked requirements.lock first, if it is missing or stale.
# Bare `make` says what there is.

RECIPE ?= fables
CORES ?= all
# Test processes; a file of tests stays in one. One more than two cores: some tests wait for what they watch.
WORKERS ?= 3
PARALLEL = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
VENV := .venv
BIN := $(VENV)/bin
# RECIPE is a file, or a name of config/recipes.
RECIPE_FILE = $(or $(wildcard $(RECIPE)),config/recipes/$(RECIPE).yaml)
# Every stage is a process: modules are compiled once, where an image says they should not be too.
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(CURDIR)/$(BIN):$(PATH)

# The first Python that is new enough; name another with PYTHON=...
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

CXX_FILES = $(shell find cuda_ops tests benchmarks -name '*.cpp' -o -name '*.h' -o -name '*.cu')
# Of the ops, one of each kind: element by element, sums over rows and columns, products, chains.
QUICK_TESTS = tests/test_layout.py tests/test_pages.py $(wildcard $(patsubst %,tests/ops/test_%.py,gelu layernorm bias matmul attention))

.DEFAULT_GOAL := help
.PHONY: help reproduction test test-all quick format lint gpu-proof evidence lock clean-results

help: ## what there is (bare `make` says it too)
	@sed -nE 's/^([a-z][a-z-]*):[^#]*## (.*)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'
	@echo
	@echo "  RECIPE=$(RECIPE)        a name of config/recipes or a file; CORES=$(CORES); PYTHON=$(PYTHON)"

reproduction: $(VENV)/ready ## a recipe from nothing to a table of digests compared with the published ones
	@snakemake --cores $(CORES) --config recipe=$(RECIPE) -- reproduction
	@python -m pipeline.verify --recipe $(RECIPE_FILE) --brief

test: $(VENV)/ready ## every kind of proof, eight minutes on two quiet cores
	@python -m pytest $(PARALLEL) -m "not slow"

test-all: $(VENV)/ready ## every test, the slow ones too; what a change must pass (.ci/run)
	@python -m pytest $(PARALLEL)

# The library is built if it is missing or stale; nothing else is.
quick: $(VENV)/ready ## format, types, layout and a few ops: half a minute, for every save
	@ruff format --check --quiet . && ruff check --quiet . && clang-format --dry-run -Werror $(CXX_FILES)
	@mypy
	@OMP_NUM_THREADS=1 python -m pytest --durations=0 --durations-min=5 -m "not slow" $(QUICK_TESTS)

format: $(VENV)/ready ## write every file as the linters want it
	@ruff check --quiet --fix . ; ruff format --quiet .
	@clang-format -i $(CXX_FILES)
	@snakefmt Snakefile workflow

gpu-proof: $(VENV)/ready ## where there is a GPU: the published bits on it, and its speed (docs/gpu.md)
	@python -m pipeline.gpu_proof

lint: $(VENV)/ready ## formatting, types, workflow lint
	ruff check .
	ruff format --check .
	mypy
	clang-format --dry-run -Werror $(CXX_FILES)
	snakefmt --check Snakefile workflow
	python -m tests.workflow.lint

evidence: $(VENV)/ready ## every proof of docs/evidence that a CPU can give, at full size; about an hour on two busy cores
	@python -m pipeline.compile
	@python -m pytest tests/evidence/test_independent.py
	@python -m tests.evidence.black_box
	@python -m tests.evidence.matrix
	@python -m tests.evidence.unary
	@python -m tests.evidence.power
	@python -m tests.evidence.faults
	@python -m benchmarks.evidence --out docs/evidence/cost.md

# The stamp is written last, so an interrupted installation starts again.
$(VENV)/ready: requirements.lock requirements-uv.lock
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer on PATH; install one or run make PYTHON=/path/to/python" >&2; exit 2; }
	@command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || \
		{ echo "error: no C++ compiler on PATH; install one (Debian: apt-get install g++)" >&2; exit 2; }
	@echo "installing the packages of requirements.lock into $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-uv.lock
	@VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes requirements.lock
	@touch $@

lock: $(VENV)/ready ## resolve requirements.in again, with hashes
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		requirements.in --output-file requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-deps \
		requirements-transformers.in --output-file requirements-transformers.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		-c requirements.lock requirements-lm-eval.in --output-file requirements-lm-eval.lock
	python -c "import re; s = open('requirements.lock').read(); b = re.search(r'^uv==.*?(?=^\S)', s, re.M | re.S).group(0); \
	lines = [l for l in b.splitlines() if not l.strip().startswith('#')]; \
	open('requirements-uv.lock', 'w').write('# uv alone, which installs the rest; written by make lock.\n' + '\n'.join(lines).rstrip('\\\\ \n') + '\n')"

clean-results: ## delete runs, rolling checkpoints and logs; data and the library stay
	rm -rf results/runs results/state results/logs
