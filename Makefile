# Every target sets up what it needs in .venv; `make help` says what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TRANSPORT ?= grpc
UV_VERSION := 0.13.9
UV := $(BIN)/uv pip install --quiet --system-certs --python $(BIN)/python
OPA_VERSION := v1.22.2
OPA := .tools/opa
CODE := extproc tests proto docs
PYTEST := $(BIN)/python -m pytest
FAULTS := tests/e2e/test_faults.py
DEMO := tests/e2e/test_demo.py
NEEDS_OPA := $(addprefix tests/contract/test_opa_,policies.py decisions.py data.py capabilities.py)
SYSTEMS := debian postgres valkey otlp schemas tecton
BY_NIGHT := envoy-1.37 envoy-1.38 envoy-1.39 feast

# Images of containers often set this. Every one of the hundreds of processes that a test run starts would then compile
# what it imports, which takes as long again as the rest of its start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo unit test everything nightly systems with-servers computing check code policies docs bench bench-count tools format lock clean

help: # show this
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## install everything, all extras, into .venv from the lock file

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "Dropout needs Python 3.11 to 3.13, and $(PYTHON) is $$($(PYTHON) -V). Name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# uv installs in seconds what takes pip minutes; where it cannot work, pip does the same.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) \
		&& $(UV) --require-hashes -r requirements.lock 2> /dev/null \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(UV) --no-deps --editable . 2> /dev/null \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: $(READY) ## real models behind a real Envoy, moved by hand and by themselves; the picture is build/demo.png
	@$(BIN)/dropout demo --transport $(TRANSPORT)

# Slow ones are left out. Whatever else stands among the slowest with a second or more wants to be cheaper, or marked.
unit: $(READY) ## the quick loop: the unit tests but for the slow ones, within a minute and a half
	@echo "Unit tests on every processor, without those marked slow, which \`make test\` runs; the slowest come last ..."
	@$(PYTEST) -n auto --dist worksteal -m 'not slow' --durations 5 tests/unit

test: ## everything that must hold: the checks, then every test, on the real Envoy and OPA
	@.ci/within test $(MAKE) --no-print-directory everything

everything: code
	@echo "Tests: those with real servers, beside them what only computes, then faults under load; about nine minutes ..."
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=line with-servers computing
	@# What breaks under load has seconds to be mended in: nothing runs beside it, not even another one.
	@$(PYTEST) $(FAULTS)

with-servers: $(READY)
	@# One more than there are processors, because they wait half of the time; the file that takes longest comes first.
	@$(PYTEST) -n $$(($$(nproc) + 1)) --dist loadfile --no-loadscope-reorder \
		$(DEMO) tests/contract tests/conformance tests/systems tests/e2e --ignore $(FAULTS) $(NEEDS_OPA:%=--ignore %)

# Takes what the servers leave idle, a third of two processors, and hardly what they need: at 19 a process of 0.2 s
# could wait for 20 s.
computing: $(READY)
	@+nice -n 10 $(MAKE) --no-print-directory policies docs
	@nice -n 10 $(PYTEST) -n auto --dist loadfile --no-loadscope-reorder tests/unit $(NEEDS_OPA)

# One after the other: each runs many tests beside each other.
nightly: $(READY) ## what costs more than `make test` may: the tests on a real Envoy, on 1.37 to 1.39 too
	@tests/systems/install $(BY_NIGHT)
	@.ci/within nightly $(PYTEST) -m nightly tests

check: code policies docs ## format, lint, types, generated code, policies, pages

code: $(READY)
	@$(BIN)/ruff format --quiet --check $(CODE)
	@$(BIN)/ruff check --quiet $(CODE)
	@$(BIN)/mypy --no-error-summary
	@MYPYPATH=docs $(BIN)/mypy --no-error-summary docs/*.py
	@$(BIN)/python proto/generate.py --check
	@echo "check: format, lint, types and generated code are as they should be"

policies: tools
	@if [ -x $(OPA) ]; then \
		unformatted="$$($(OPA) fmt --list policies docs/recipes)"; \
		test -z "$$unformatted" || { echo "make format would change: $$unformatted"; exit 1; }; \
		$(OPA) check --strict policies docs/recipes && $(OPA) test policies docs/recipes > build/opa-test.log 2>&1 || { cat build/opa-test.log; exit 1; }; \
		echo "check: OPA finds the policies as they should be"; \
	fi

bench: $(READY) ## cost of a decision against a no-op server; the figures are in build/bench.json
	@$(BIN)/python -m tests.bench

bench-count: $(READY) ## instructions of a decision beside its merge base's (BASE=REV: another's), at most 5 % more; needs valgrind
	@$(BIN)/python -m tests.bench.count $(if $(BASE),--base $(BASE))

docs: $(READY) ## the pages as a site in build/site; a dead link fails
	@# Not --quiet: it takes warnings away before --strict has counted them, and a dead link would be well.
	@mkdir -p build && NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/mkdocs.yml > build/docs.log 2>&1 \
		|| { cat build/docs.log; exit 1; }
	@echo "check: the pages are in build/site; python3 -m http.server -d build/site shows them, with their search"

# Not optimised, because it has little to do here: that builds it in three quarters of the time.
tools: | build ## build the pinned OPA into .tools/ (needs Go)
	@if [ -x $(OPA) ]; then :; \
	elif command -v go > /dev/null; then \
		echo "Building OPA $(OPA_VERSION) into .tools/ (about a minute) ..."; \
		mkdir -p .tools && GOBIN="$(CURDIR)/.tools" go install -gcflags='all=-N -l' github.com/open-policy-agent/opa@$(OPA_VERSION) 2> build/opa-build.log \
			|| { cat build/opa-build.log; exit 1; }; \
	else echo "left out: opa fmt, opa check --strict and opa test, because Go, which builds OPA, is not installed"; fi

systems: $(READY) tools ## bring the real systems that tests need: Debian's (as root), wheels in build/venvs/, OPA
	@tests/systems/install $(SYSTEMS)

format: $(READY) ## put code and policies into their format, and into the pages what is made of the code
	@$(BIN)/ruff format --quiet $(CODE)
	@$(BIN)/ruff check --quiet --fix $(CODE)
	@$(BIN)/python docs/generate.py
	@if [ -x $(OPA) ]; then $(OPA) fmt --write policies docs/recipes; fi

lock: $(READY) # resolve pyproject.toml anew into requirements.lock, for Python 3.11 to 3.13
	@$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --no-header \
		--no-emit-index-url --generate-hashes pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra opa --extra prometheus --extra redis --extra rego --extra rest --no-header --no-annotate \
		--no-emit-index-url --generate-hashes --constraint requirements.lock pyproject.toml -o envoy/requirements.lock
	@for wheel in tests/systems/wheels/*.in; do \
		$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate \
			--no-emit-index-url --generate-hashes $$wheel -o $${wheel%.in}.txt; \
	done

build:
	@mkdir -p build

clean: ## remove what was built and measured; .venv and .tools stay
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	@find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
