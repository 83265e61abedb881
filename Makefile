# The same commands for people and for CI. `make demo` and `make test` set up all they need.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready

.PHONY: help setup demo test test-all lint grade starter bench report submission clean

help:
	@echo "make demo        draw the demo data, train, evaluate, attack; pictures in results/demo (about 3 minutes)"
	@echo "make test        the quick tests (2 to 3 minutes)"
	@echo "make test-all    all tests (6 to 16 minutes)"
	@echo "make lint        ruff"
	@echo "make grade SUBMISSION=PATH   marks a zip or a folder, as staff will (20 s)"
	@echo "make starter     the starter for students, made from the solution and checked: starter/, starter.zip"
	@echo "make bench       speed and memory against what one would use instead (some minutes; keep the machine quiet)"
	@echo "make report      writeup/writeup.pdf from writeup/*.typ and what lies in results/ (some seconds)"
	@echo "make submission  the zip to hand in"
	@echo "make clean       remove what these commands made, but for logs/ and downloaded data"

setup: $(READY)

$(READY): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "no virtual environment could be made; on Debian, Ubuntu and" \
	  "Colab install its package first: apt install python3-venv"; exit 1; }
	@echo "installing torch and the rest of requirements.txt into $(VENV): some minutes, the first time"
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

demo: $(READY)
	cd code && ../$(PY) -m demo

test: $(READY)
	OMP_NUM_THREADS=1 $(PY) -m pytest

test-all: $(READY)
	OMP_NUM_THREADS=1 $(PY) -m pytest -m "slow or not slow"

lint: $(READY)
	$(PY) -m ruff check .

SUBMISSION ?= .
grade: $(READY)
	$(PY) -m autograder grade "$(SUBMISSION)"

STARTER ?= starter
starter: $(READY)
	$(PY) -m autograder starter "$(STARTER)"

bench: $(READY)
	$(PY) benchmarks/bench_conv.py --json benchmarks/records/conv.json
	$(PY) benchmarks/bench_data.py --json benchmarks/records/data.json
	$(PY) benchmarks/bench_train.py --json benchmarks/records/train.json
	$(PY) benchmarks/bench_vit.py --json benchmarks/records/vit.json

report: $(READY)
	$(PY) writeup/build.py

submission:
	$(PYTHON) zip_submission.py

clean:
	rm -rf $(VENV) data/demo results/demo logs/demo submission.zip .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
