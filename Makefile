# Every target sets up what it needs; none needs another to have been called first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= deploy/emode.yaml
STUDY ?=
TESTS ?= tests
# Most tests wait for other processes: a few at once cost less time than one after the other.
JOBS ?= 3
N ?= 25
CASES ?= 10000
SEED ?=
WITHOUT ?=
REPORT ?=
BUSI ?=
START ?=
RUNS ?= runs/default
ROUNDS ?= 5
PARTS ?=

.PHONY: help install test lint audit chaos fuzz bench run demo train train-default train-onward measure-outage clean

help:  ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed  ## make .venv with everything pinned by constraints.txt

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt --editable '.[dev,jpeg-lossless]'
	@touch $@

test: install  ## all tests, against real peers (installs them where that is allowed)
	@sh deploy/install-test-peers.sh || echo "Tests marked 'peers' cannot run without them; see above."
	$(BIN)/python -P -m pytest --numprocesses $(JOBS) --dist worksteal $(TESTS)

lint: install  ## style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: install  ## versions, licences, SBOM (build/sbom.json), advisories where a source is reachable
	@# 4: no source of advisories could be reached, which is said and is no failure.
	@$(BIN)/python -P deploy/audit.py || test $$? -eq 4

chaos: install  ## N faults drawn from SEED against a real node; nothing may be lost (docs/reliability.md)
	@sh deploy/install-test-peers.sh
	PYTHONPATH=tests $(BIN)/python -P -m chaos --count $(N) $(if $(SEED),--seed $(SEED)) \
		$(if $(WITHOUT),--without '$(WITHOUT)') $(if $(REPORT),--report '$(REPORT)')

fuzz: install  ## CASES hostile data sets and network peers (10000); the same SEED makes the same ones
	PYTHONPATH=tests $(BIN)/python -P -m fuzz --cases $(CASES) $(if $(SEED),--seed $(SEED))

bench: install  ## speed beside Orthanc and DCMTK, ROUNDS (5) of each; PARTS=receiving,latency,...
	@sh deploy/install-test-peers.sh
	PYTHONPATH=tests $(BIN)/python -P -m bench --rounds $(ROUNDS) $(if $(PARTS),--parts '$(PARTS)') \
		$(if $(REPORT),--report '$(REPORT)')

run: install  ## start the service with CONFIG (deploy/emode.yaml)
	$(BIN)/emode serve --config $(CONFIG)

demo: install  ## send a study through a real node into a real archive; STUDY=folder takes your own
	$(BIN)/emode demo $(if $(STUDY),--study '$(STUDY)')

train: install  ## train a first small bundle from nothing on this machine, in minutes
	$(BIN)/emode-train quick --out runs/quick

TRAIN := $(BIN)/emode-train
PAIRS = --training $(RUNS)/simulated --training $(RUNS)/layouts/training --training $(RUNS)/layouts/training \
	--validation $(RUNS)/validation
SCORED = --data $(RUNS)/test --training $(RUNS)/simulated --other $(RUNS)/referee \
	--masks '$(BUSI)' --familiar '$(BUSI)' --replace

.PHONY: pairs start-named
start-named:
	@test -n '$(START)' || { echo "Say which bundle to go on from: START=folder"; exit 2; }

pairs: install
	@test -n '$(BUSI)' || { echo "Say where the BUSI stills are: BUSI=folder"; exit 2; }
	$(TRAIN) simulate --n $(TISSUE) --seed 0 --out $(RUNS)/simulated
	$(TRAIN) simulate --n 300 --seed 1000000 --out $(RUNS)/validation
	$(TRAIN) simulate --n 300 --seed 2000000 --out $(RUNS)/test
	$(TRAIN) simulate --n 150 --seed 2000000 --simulator referee --out $(RUNS)/referee
	$(TRAIN) simulate --layouts '$(BUSI)' --draws 6 --out $(RUNS)/layouts

train-default: TISSUE = 10000
train-default: pairs  ## train a bundle like the one that ships from nothing: about two hours; BUSI=folder with its stills
	$(TRAIN) fit --config small $(PAIRS) --out $(RUNS)/small
	$(TRAIN) export --run $(RUNS)/small $(SCORED) --out $(RUNS)/small/bundle

train-onward: TISSUE = 7000
train-onward: start-named pairs  ## go on from the bundle START, as the bundle that ships did from 0.3.0: an hour; BUSI=folder
	$(TRAIN) fit --config onward --start '$(START)' $(PAIRS) --out $(RUNS)/onward
	$(TRAIN) export --run $(RUNS)/onward $(SCORED) --out $(RUNS)/onward/bundle

measure-outage: install  ## how long a dead destination delays the others
	$(BIN)/python -P tests/measure/dead_destination.py

clean:  ## remove what the other targets made, the environment too
	rm -rf $(VENV) demo var runs build *.egg-info
