# Everything runs in .venv, which the first target that needs it sets up.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test example-payments example-invoices example-shop simulate explore chaos crash corpus check format docs bench mutate clean
.DEFAULT_GOAL := test

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "deliveries needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(READY)  ## The main job, end to end, on an embedded SQLite file
	$(BIN)/deliveries demo

test: export PYTHONDONTWRITEBYTECODE =
test: $(READY)  ## All tests
	@$(BIN)/pytest --collect-only -qq > /dev/null || true  # compiles the tests once, not in each process
	$(BIN)/pytest -n 4 --dist worksteal

example-payments: $(READY)  ## A shop that charges cards, and a worker that is killed
	$(BIN)/python -m examples.payments.story

example-invoices: $(READY)  ## A PDF for each invoice, mailed
	$(BIN)/python -m examples.invoices.story

example-shop: $(READY)  ## A FastAPI shop that is killed and owes nobody anything
	$(BIN)/python -m examples.fastapi_shop.story

simulate: $(READY)  ## N histories of everything at once, on a store that fails: N=10000 SEED=0, or ONLY=seed
	PYTHONPATH=tests $(BIN)/python -m simulation $(or $(N),10000) --seed $(or $(SEED),0) $(if $(ONLY),--only $(ONLY))

explore: $(READY)  ## A small world, explored whole: all interleavings of two processors and each misfortune once
	PYTHONPATH=tests $(BIN)/python -m simulation --small

chaos: N = 50000
chaos: MINUTES = 6
chaos: SEED = 1
chaos: $(READY)  ## PostgreSQL restarted, crashed and cut off under four processors: N=50000 MINUTES=6 SEED=1
	PYTHONPATH=tests $(BIN)/python tests/chaos/run.py --deliveries $(N) --minutes $(MINUTES) --seed $(SEED)

crash: $(READY)  ## N workers killed, at every point of their work, on both databases
	PYTHONPATH=tests $(BIN)/python -m crash $(or $(N),2000)

corpus: $(READY)  ## New shapes and versions of events into the golden corpus; what is there stays
	PYTHONPATH=tests $(BIN)/python -m corpus

check: $(READY)  ## Format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)  ## Redraw what is generated from the code
	$(BIN)/python docs/generate.py

bench: $(READY)  ## Speed on both stores, with the machine's fsync rate beside it; start-up and memory
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/footprint.py --rounds 5

OF ?= core
mutate: export HYPOTHESIS_EXAMPLES = 10
mutate: export PYTHONPATH = $(CURDIR)/mutants/mutants/src:$(CURDIR)/mutants/tests
mutate: $(READY)  ## Small changes to the code, one by one; a test must notice each: OF=core or OF=processor
	@grep -q '^\[tool\.mutmut\.$(OF)\]' pyproject.toml || { echo "nothing is known of OF=$(OF)"; exit 1; }
	rm -rf mutants && mkdir -p mutants/mutants/src && cp -r src tests mutants
	sed 's/^\[tool\.mutmut\.$(OF)\]/[tool.mutmut]/' pyproject.toml > mutants/pyproject.toml
	cd mutants && $(abspath $(BIN))/python -m mutation --children 2
	$(if $(filter core,$(OF)),cd mutants && $(abspath $(BIN))/python -m mutation --anew)
	cd mutants && $(abspath $(BIN))/mutmut results

clean:
	rm -rf $(VENV) mutants .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist
