# make reproduction   the default recipe, from nothing to a table of digests compared with the published ones
# make test           the test suite, from nothing
# make lint           formatting, types, workflow lint
# make gpu-proof      where there is a GPU: the published bits on it, and its speed (docs/gpu.md)
# make evidence       every proof of docs/evidence that a CPU can give, at full size; about an hour on two busy cores
#
# All build .venv from the hash-locked requirements.lock first, if it is missing or stale.

RECIPE ?= fables
CORES ?= all
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

# The first Python that is new enough; name another with PYTHON=...
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: reproduction test lint gpu-proof evidence lock clean-results

reproduction: $(VENV)/ready
	@snakemake --cores $(CORES) --rerun-incomplete --show-failed-logs --quiet rules host \
		--config recipe=$(RECIPE) -- reproduction
	@python -m pipeline.verify --recipe config/recipes/$(RECIPE).yaml --brief

test: $(VENV)/ready
	@python -m pytest

gpu-proof: $(VENV)/ready
	@python -m pipeline.gpu_proof

lint: $(VENV)/ready
	ruff check .
	ruff format --check .
	mypy
	clang-format --dry-run -Werror cuda_ops/bindings/*.cpp cuda_ops/bindings/*.h cuda_ops/cpu/*.cpp cuda_ops/cpu/*.h cuda_ops/numerics/*.h \
		cuda_ops/kernels/*.h cuda_ops/kernels/*.cu tests/cuda_on_cpu/*.h tests/cuda_on_cpu/*.cpp tests/cuda_on_cpu/*.cu \
		benchmarks/*.cpp benchmarks/*.cu tests/evidence/*.cpp tests/ops/*.cpp
	snakefmt --check Snakefile workflow
	snakemake --lint

evidence: $(VENV)/ready
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
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip sync --quiet --require-hashes requirements.lock
	@touch $@

lock: $(VENV)/ready
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		requirements.in --output-file requirements.lock
	python -c "import re; s = open('requirements.lock').read(); b = re.search(r'^uv==.*?(?=^\S)', s, re.M | re.S).group(0); \
	lines = [l for l in b.splitlines() if not l.strip().startswith('#')]; \
	open('requirements-uv.lock', 'w').write('# uv alone, which installs the rest; written by make lock.\n' + '\n'.join(lines).rstrip('\\\\ \n') + '\n')"

clean-results:
	rm -rf results/runs results/state results/logs
