# Everything a new user needs: `make demo` shows what hbdist does, `make test` shows that it works.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# The demo takes about four minutes of two cores: a short training, and five languages of XQuAD-R (Greek is in no batch).
# Shorter still: make demo DEMO_TRAIN="steps=2" DEMO_EVALUATE="--questions 5 --languages en,th"
DEMO_RUN ?= runs/demo
DEMO_TRAIN ?= steps=12
DEMO_EVALUATE ?= --languages en,ar,zh,de,el --questions 50

.PHONY: demo demo-full slurm-demo test test-all lint mutants faults soak fuzz bench install clean
.DELETE_ON_ERROR:

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV): a few minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[cpu,track,dev]"
	touch $@

demo: install
	$(BIN)/hbdist build shards/recipes/demo.toml
	$(BIN)/hbdist check shards/built/demo
	$(BIN)/hbdist evaluate models/me5-small-demo --out $(DEMO_RUN)/evaluation/before $(DEMO_EVALUATE)
	$(BIN)/accelerate launch --config_file launch/accelerate/two.yaml \
		hbdist/train.py launch/train/demo.toml run.folder=$(DEMO_RUN) $(DEMO_TRAIN)
	$(BIN)/hbdist evaluate $(DEMO_RUN)/model --out $(DEMO_RUN)/evaluation/after \
		--before $(DEMO_RUN)/evaluation/before $(DEMO_EVALUATE)
	$(BIN)/hbdist report $(DEMO_RUN)

# All eleven languages and every candidate: about fifteen minutes.
demo-full:
	$(MAKE) demo DEMO_RUN=runs/demo-full DEMO_TRAIN="steps=20" DEMO_EVALUATE="--questions 100"

# A real Slurm on this machine, from Debian's packages, for the minute that it takes.
slurm-demo: install
	$(BIN)/hbdist build shards/recipes/demo.toml
	bash slurm/demo.sh

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: install
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" --durations=20 -q

test-all: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations=30 -q --ignore tests/memory/test_estimate.py
	$(BIN)/python -m pytest -q tests/memory/test_estimate.py  # measures memory: alone on the machine

# Each change that mutmut makes to the core must fail a test. A later call tests only what is new or changed; with
# MUTANTS="--again" what survived, with MUTANTS="'hbdist.loss.*'" a part. docs/reliability.md has the numbers and the reasons.
mutants: install
	OMP_NUM_THREADS=1 nice -n 19 $(BIN)/python tests/mutation/run.py $(MUTANTS)
	$(BIN)/mutmut results

# Hurts real runs in every known way for half an hour, and checks what a restart makes of them (docs/reliability.md). Called again,
# it goes on where it was. Shorter: make faults FAULTS="--minutes 5 --only 'kill|disk'"
FAULTS ?= --minutes 30
faults: install
	$(BIN)/python tests/faults/campaign.py $(FAULTS)

# 20,000 tiny steps on two processes, half an hour or more; memory, descriptors, threads, CPU time and files must not grow.
soak: install
	$(BIN)/python tests/faults/soak.py

# Mutated files for everything that reads files; a quarter of an hour. Shorter: make fuzz FUZZ="--inputs 1000 squad study"
fuzz: install
	PYTHONPATH=tests:tests/support $(BIN)/python -m fuzz $(FUZZ)

PEERS := benchmarks/.cache/peers

$(PEERS)/.installed: benchmarks/peers.txt | install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
		--target $(PEERS) --requirement benchmarks/peers.txt
	touch $@

# An hour or more on two cores that nothing else uses, and 8 GB of disk; the results go into benchmarks/results and benchmarks/README.md.
bench: install $(PEERS)/.installed
	$(BIN)/python benchmarks/gradients.py
	$(BIN)/python benchmarks/loss.py --large
	$(BIN)/python benchmarks/ranks.py
	$(BIN)/python benchmarks/gradient_cache.py
	$(BIN)/python benchmarks/reading.py
	$(BIN)/python benchmarks/composition.py
	$(BIN)/python benchmarks/resume.py
	$(BIN)/python benchmarks/schedule.py
	$(BIN)/python benchmarks/feeding.py
	$(BIN)/python benchmarks/layouts.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/encoding.py
	$(BIN)/python benchmarks/gpu.py
	$(BIN)/python benchmarks/page.py

# Runs stay: they may be a month of work.
clean:
	rm -rf $(VENV) shards/built
