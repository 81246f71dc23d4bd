# `make help` says what there is. `make demo` and `make test` are all the set-up needed.
# Each Python has an environment of its own: .venv for 3.11, .venv-3.12 for 3.12, and so on.

PYTHON ?= python3.11
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV := .venv$(patsubst -3.11,,-$(or $(VERSION),unknown))
BIN := $(VENV)/bin
INPUTS := setup.py pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test check integration bench soak docs constraints

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
	@echo "  With another Python: make test PYTHON=python3.12"

demo: $(VENV)/.demo  ## Run the flights example from raw CSV to a served prediction
	$(BIN)/skewless run examples/flights/recipe.py --output runs/

test: $(VENV)/.dev  ## Run the tests, without the slow ones
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not integration"

check: $(VENV)/.dev  ## Lint, format, types, and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p skewless
	$(BIN)/lint-imports

integration: $(VENV)/.dev  ## Run the slow tests: fresh environments, real runners and servers
	rm -f build/what_works.json
	$(BIN)/python -m pytest -n 2 --dist loadfile -m integration
	$(BIN)/python -m tests.what_works --check docs/runners.md

bench: $(VENV)/.dev  ## Measure skewless beside its peers: 90 minutes; then AUC, after a demo
	$(BIN)/python -m tests.benchmarks --docs docs/benchmarks.md
	$(BIN)/python -m tests.benchmarks.sources
	$(BIN)/python -m tests.benchmarks.aggregates --docs docs/streaming.md
	$(BIN)/python -m tests.benchmarks.streaming
	$(BIN)/python -m tests.benchmarks.scaling --docs docs/scaling.md
	$(BIN)/python -m tests.benchmarks.serving --docs docs/serving.md
	@run=$$(ls -dt runs/flights/*/ 2>/dev/null | head -n 1); \
	if [ -n "$$run" ]; then $(BIN)/python tests/benchmarks/auc_flights.py "$$run"; \
		$(BIN)/python -m tests.benchmarks.predicting "$$run"; \
	else echo "bench: no run in runs/flights/ to compare the AUC of; first: make demo"; fi

soak: $(VENV)/.dev  ## Stream for 20 minutes and see that memory stays flat
	$(BIN)/python -m tests.benchmarks.soak

docs: $(VENV)/.dev  ## Check the links and the Python code of README.md and docs/
	$(BIN)/python -m pytest tests/test_docs.py

constraints:  ## Renew constraints.txt: the newest versions that fit, as pip finds them
	@test -n "$(VERSION)" || { echo "$(PYTHON) does not run; name one that does: PYTHON=python3.12" >&2; exit 1; }
	rm -rf .venv-constraints
	$(PYTHON) -m venv .venv-constraints
	.venv-constraints/bin/pip install --quiet -e '.[dev]'
	sed '/^[^#]/d' constraints.txt > .venv-constraints/new
	.venv-constraints/bin/pip freeze --all --exclude pip --exclude-editable >> .venv-constraints/new
	mv .venv-constraints/new constraints.txt
	rm -rf .venv-constraints

$(VENV)/.demo: EXTRA := demo
$(VENV)/.dev: EXTRA := dev
$(VENV)/.demo $(VENV)/.dev: $(INPUTS)
	@test -n "$(VERSION)" || { echo "$(PYTHON) does not run; name one that does: PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): about 3 GB, a few minutes the first time"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRA)]'
	touch $@
