# Two commands do everything on a machine that has Python and pip:
#   make train    install, train the default experiment, evaluate it before and after, report on it
#   make test     install, run the tests
#   make test-long  the tests that train for minutes or start many processes
#   make test-gpu install MuJoCo Warp beside it, run the tests of rollouts on a GPU, or on the processor
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VENV_GPU := .venv-gpu
BIN_GPU := $(VENV_GPU)/bin
RUN := runs/maml_trpo_ml1_reach/seed1

.PHONY: train test test-long test-gpu check clean

train: $(VENV)/.installed
	@if [ -d $(RUN) ]; then $(BIN)/python train.py --resume $(RUN); else $(BIN)/python train.py; fi
	@echo; echo "Before training, on held-out goals:"
	@$(BIN)/python evaluate.py $(RUN) --checkpoint 0
	@echo; echo "After training, on the same goals:"
	@$(BIN)/python evaluate.py $(RUN) --report
	@echo; echo "The run is in $(RUN); watch it with: $(BIN)/tensorboard --logdir runs"

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-long: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m long

test-gpu: $(VENV_GPU)/.installed-dev
	$(BIN_GPU)/python -m pytest -n 2 tests/warp

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	@touch $@

# moviepy is for the tests of recorders; without its wish for an old Pillow, which it does not need
$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable ".[dev]"
	-$(BIN)/pip install --quiet --no-deps moviepy imageio imageio-ffmpeg proglog decorator python-dotenv
	@touch $@

# metaworld asks for an older MuJoCo than MuJoCo Warp runs on, hence an environment of its own
$(VENV_GPU)/.installed-dev: pyproject.toml requirements-gpu.txt
	$(PYTHON) -m venv $(VENV_GPU)
	$(BIN_GPU)/pip install --quiet --editable ".[dev]"
	$(BIN_GPU)/pip install --quiet --no-deps --requirement requirements-gpu.txt
	@touch $@

clean:
	rm -rf $(VENV) $(VENV_GPU)
