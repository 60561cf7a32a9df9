# make demo      simulate data, plan, train, consolidate, predict, evaluate, draw: a few minutes on a laptop's CPU
# make test      the test suite
# make coverage  the same, and which lines it runs; takes about a quarter longer
# make check     formatting, lint, types, import directions, security lint
# make docs      the pages of docs/ as a site, in site/
# PYTHON=python3.12 chooses the interpreter (3.10 to 3.13) that .venv is made from.

# Python stores compiled modules. Without them, each of the many processes below would compile what it imports.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
# More flags for pip while .venv is made, for example an --index-url with CPU builds of torch.
PIP_FLAGS ?=
PYTEST_FLAGS ?=
# Small networks gain nothing from a second thread; two files of tests at a time do; in their
# own order, since the files with few tests, which xdist would leave for the end, are the long ones.
TEST_PROCESSES ?= 2
DEMO_FOLDER ?= demo_output
DEMO_MINUTES ?= 1.75

# To compile every module of PyTorch and the others takes longer than to install them; those in use are compiled below.
PIP_QUICK := --quiet --no-compile

VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
INSTALLED := $(VENV)/.installed
DEMO_RAW := $(DEMO_FOLDER)/raw
DEMO_RESULTS := $(DEMO_FOLDER)/results
DEMO_FLAGS = --raw $(DEMO_RAW) --preprocessed $(DEMO_FOLDER)/preprocessed
DEMO_SET := $(DEMO_RAW)/Dataset999_Example

.PHONY: demo test coverage check docs format install runtime clean

install: $(INSTALLED)

runtime: $(RUNTIME)

# What the program needs; the demo takes no more.
$(RUNTIME): setup.py constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "no virtual environment can be made; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install $(PIP_QUICK) $(PIP_FLAGS) -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install $(PIP_QUICK) $(PIP_FLAGS) -c constraints.txt -e .
	@$(BIN)/python -c "import detseg3d.pipeline.run, detseg3d.pipeline.consolidate"
	@touch $@

$(INSTALLED): $(RUNTIME) pyproject.toml
	$(BIN)/python -m pip install $(PIP_QUICK) $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	@touch $@

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

coverage:
	@$(MAKE) --no-print-directory test PYTEST_FLAGS="--cov --cov-report=term:skip-covered $(PYTEST_FLAGS)"

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet -c pyproject.toml -r detseg3d setup.py

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# With so few scans, starting worker processes takes longer than the work: -np 0. Without shifted scans, the demo is half
# a minute shorter.
demo: $(RUNTIME)
	rm -rf $(DEMO_FOLDER)
	@echo "== 1/7 simulate scans"
	$(BIN)/detseg3d_example $(DEMO_RAW)
	@echo "== 2/7 plan and preprocess"
	$(BIN)/detseg3d_plan_and_preprocess -d 999 $(DEMO_FLAGS) --val_split 0.2 -np 0
	@echo "== 3/7 train for $(DEMO_MINUTES) minutes"
	$(BIN)/detseg3d_train 999 0 $(DEMO_FLAGS) --results $(DEMO_RESULTS) --max_minutes $(DEMO_MINUTES) --roi_size 24 --disable_tta \
		--shifted_scans 0
	@echo "== 4/7 calibrate the scores and choose the thresholds"
	$(BIN)/detseg3d_consolidate 999 -f 0 --raw $(DEMO_RAW) --results $(DEMO_RESULTS) -np 0
	@echo "== 5/7 predict the held-out scans"
	$(BIN)/detseg3d_predict -i $(DEMO_SET)/imagesTs -o $(DEMO_FOLDER)/predictions -d 999 -f 0 --results $(DEMO_RESULTS)
	@echo "== 6/7 evaluate them"
	$(BIN)/detseg3d_evaluate -gt $(DEMO_SET)/labelsTs -pred $(DEMO_FOLDER)/predictions -o $(DEMO_FOLDER)/evaluation \
		--report --images $(DEMO_SET)/imagesTs
	@echo "== 7/7 draw them"
	for case in held_out_001 held_out_002; do \
		$(BIN)/detseg3d_visualize --image $(DEMO_SET)/imagesTs/$${case}_0000.nii.gz \
			--pred $(DEMO_FOLDER)/predictions/$$case.nii.gz --label $(DEMO_SET)/labelsTs/$$case.nii.gz \
			--output $(DEMO_FOLDER)/$$case.png || exit 1; \
	done
	@echo "Done. The results are in $(DEMO_FOLDER): evaluation/report.html (open it in a browser), pictures, and predictions."

clean:
	rm -rf $(VENV) $(DEMO_FOLDER) site build dist *.egg-info .coverage htmlcov
