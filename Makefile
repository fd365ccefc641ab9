# make demo    set up, fine-tune the shipped policy on new demonstrations, drive robosuite through the server, report
# make test    set up, lint, type-check, run the fast tests
# make serve   set up, serve the demo's policy (or, before any demo, the shipped one) over HTTP
# make lint    set up, lint and type-check only
# make setup   the set-up alone, without the tests' and linters' tools
#
# PYTHON=python3.12      which Python (3.11 or 3.12) makes the virtual environment
# VENV=.venv             where it goes
# TORCH_INDEX=URL        an extra package index to find torch in: PyTorch's own CPU index saves gigabytes of CUDA
#                        packages on a machine without a GPU (see README, "Installation")

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
HOST ?= 127.0.0.1
PORT ?= 8000
export MUJOCO_GL ?= egl

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := $(VENV)/.ready
TOOLS := $(VENV)/.tools
DEMO_POLICY := runs/demo/policy

.PHONY: help demo test serve lint setup system clean
help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' $(firstword $(MAKEFILE_LIST))

demo: setup
	$(BIN)/python -m aegis_sim.demo

test: lint
	$(BIN)/python -m pytest -q

serve: setup
	$(BIN)/aegis serve --host $(HOST) --port $(PORT) $(if $(wildcard $(DEMO_POLICY)),--checkpoint $(DEMO_POLICY))

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(READY)

# robosuite and pynput go in without their dependencies, which want numpy < 2 and a compiler; what they need is in the
# extras `sim` and `teleop`.
$(READY): pyproject.toml constraints.txt | system
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(PIP) install -c constraints.txt -e ".[server,sim,teleop]"
	$(PIP) install -c constraints.txt --no-deps robosuite pynput
	touch $@

$(TOOLS): $(READY)
	$(PIP) install -c constraints.txt -e ".[server,sim,dev]"
	touch $@

# What pip cannot bring: a Python of the right version with its venv module, and headless rendering (EGL on Mesa).
system:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || { \
	  echo "make: '$(PYTHON)' is not Python 3.11 or 3.12; name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@packages=; \
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  packages=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	if [ "$$MUJOCO_GL" = egl ]; then \
	  $(PYTHON) -c 'import ctypes; ctypes.CDLL("libEGL.so.1")' 2>/dev/null || packages="$$packages libegl1"; \
	  $(PYTHON) -c 'import ctypes; ctypes.CDLL("libGL.so.1")' 2>/dev/null || packages="$$packages libgl1"; \
	fi; \
	[ -n "$$packages" ] || exit 0; \
	if [ "$$(id -u)" = 0 ]; then sudo=; elif command -v sudo >/dev/null; then sudo=sudo; else sudo=none; fi; \
	if [ "$$sudo" = none ] || ! command -v apt-get >/dev/null; then \
	  echo "make: missing system packages and no way to install them here; as root, run the equivalent of" >&2; \
	  echo "  apt-get install --no-install-recommends $$packages" >&2; exit 1; fi; \
	echo "installing system packages: $$packages"; \
	$$sudo apt-get update -q && $$sudo apt-get install -q -y --no-install-recommends $$packages

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info build dist
