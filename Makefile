# make demo: see it work. make test: everything that must hold. Both set up .venv first, once.
.PHONY: setup demo test test-colcon lint benchmark benchmark-gpu rooms clean
.DEFAULT_GOAL := demo

VENV := .venv
BIN := $(VENV)/bin
# The first of these that is a Python this project supports; or say `make PYTHON=/path/to/python3.12`.
PYTHON ?= $(firstword $(foreach candidate,python3 python3.12 python3.13 python3.11,$(shell \
	$(candidate) -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, 13) and print("$(candidate)")' 2>/dev/null)))
# Anything more for pip, for example --extra-index-url with an index of CPU-only builds of torch.
PIP_ARGS ?=
# A folder of rooms, each a folder with image.jpg and masks.png.
ROOMS_DIR ?= ../shared/data/scenes

# Started from another environment's Python, ours would believe that its ROS libraries are loaded already.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE LD_LIBRARY_PATH PYTHONPATH
# Talk to nobody but this machine, and with shared memory that fits images.
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
export FASTRTPS_DEFAULT_PROFILES_FILE ?= $(CURDIR)/config/fastdds.xml

INTERFACES := package.xml CMakeLists.txt scenegen_ros/__init__.py $(wildcard msg/* srv/* action/* scripts/*) \
	$(wildcard pip_ros/*.* pip_ros/interfaces/*/*.* pip_ros/interfaces/*/*/*)

setup: $(VENV)/interfaces.stamp

$(VENV)/packages.stamp: $(wildcard requirements/*.txt) requirements/package.json
	$(if $(PYTHON),,$(error Python 3.11, 3.12 or 3.13 is needed: install one, or set PYTHON=/path/to/it))
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "$(PYTHON) could not make a virtual environment (Debian and Ubuntu: install python3-venv)"; exit 1; }
	@$(BIN)/python pip_ros/build.py --check
	@echo "Installing packages into $(VENV) (minutes the first time)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c requirements/constraints.txt \
		$(foreach name,run export view bags ros build dev,-r requirements/$(name).txt)
	@! command -v npm >/dev/null || { mkdir -p $(VENV)/npm && cp requirements/package.json $(VENV)/npm && \
		npm install --silent --no-audit --no-fund --prefix $(VENV)/npm; } || echo "npm failed: tests that need it are skipped"
	@touch $@

$(VENV)/interfaces.stamp: $(VENV)/packages.stamp $(INTERFACES)
	@echo "Building the ROS interfaces"
	@$(BIN)/python pip_ros/build.py
	@touch $@

# What MoveIt's planning scene is made of; only its test needs it here.
$(VENV)/moveit.stamp: $(VENV)/interfaces.stamp
	@echo "Building MoveIt's interfaces"
	@$(BIN)/python pip_ros/build.py --moveit
	@touch $@

demo: setup
	$(BIN)/python -m scenegen_ros.demo

test: lint $(VENV)/moveit.stamp
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-colcon: setup
	$(BIN)/python pip_ros/test_colcon.py

benchmark: setup
	$(BIN)/python -m benchmark

benchmark-gpu: setup
	$(BIN)/python -m benchmark.gpu

rooms: setup
	$(BIN)/python -m scenegen_ros.rooms $(ROOMS_DIR)

clean:
	rm -rf $(VENV) build install log out .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
