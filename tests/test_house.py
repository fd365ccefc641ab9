"""The house stands as designed: its rooms exist, the arrows between them point one way, and its manners hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "aegis_policy": ROOT / "aegis_policy",
    "aegis_sim": ROOT / "sim/aegis_sim",
    "aegis_server": ROOT / "server/aegis_server",
    "aegis_ros": ROOT / "ros2_ws/src/aegis_ros/aegis_ros",
}

WEB = {"fastapi", "starlette", "uvicorn"}
ROS = {"rclpy"}
SIMULATORS = {"robosuite", "mujoco", "gymnasium"}
MODEL_RUNTIMES = {"torch", "transformers", "onnxruntime"}
FORBIDDEN_IMPORTS = {
    "aegis_policy": WEB | ROS | SIMULATORS | {"aegis_sim", "aegis_server", "aegis_ros"},
    "aegis_sim": WEB | ROS | MODEL_RUNTIMES | {"aegis_server", "aegis_ros"},
    "aegis_server": ROS | SIMULATORS | MODEL_RUNTIMES | {"aegis_sim", "aegis_ros"},
    "aegis_ros": WEB | SIMULATORS | MODEL_RUNTIMES | {"aegis_sim", "aegis_server"},
}
SIMULATED_ROBOT = {"sim_robot.py", "sim_robot_node.py"}  # of aegis_ros: they, and nothing else there, know aegis_sim
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"}
MAX_LINES = 400

# Addresses of package registries and model hubs belong in their clients' settings, never in the repository.
HOSTS = re.compile(r"(?:pypi|pythonhosted|anaconda)[.]org|(?:huggingface|hf)[.]co\b|pytorch[.]org/whl")

SOURCES = sorted(
    (package, path)
    for package, folder in PACKAGES.items()
    for path in folder.rglob("*.py")
    if "__pycache__" not in path.parts
)


def label(value: object) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


def modules_imported(tree: ast.AST) -> set[str]:
    """The absolute modules, in full, that any statement of `tree` imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def tracked_files() -> list[Path]:
    """Every file that git tracks, as it stands in the working tree."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"not a git checkout: {done.stderr.strip()}")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


@pytest.mark.parametrize(
    "room",
    [
        "aegis_policy/model",
        "aegis_policy/training",
        "aegis_policy/data",
        "aegis_policy/inference",
        "aegis_policy/control",
        "aegis_policy/assets",
        "aegis_policy/cli.py",
        "server/aegis_server",
        "sim/aegis_sim",
        "ros2_ws/src/aegis_interfaces",
        "ros2_ws/src/aegis_ros",
        "tests",
        "benchmarks",
        "pyproject.toml",
        "constraints.txt",
        "Makefile",
        ".ci/run",
        "README.md",
        "LICENSE",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    ],
)
def test_the_tree_is_the_designs(room: str) -> None:
    assert (ROOT / room).exists()


def test_no_package_stands_outside_the_house() -> None:
    packages = {path.parent.relative_to(ROOT).as_posix() for path in tracked_files() if path.name == "__init__.py"}
    outside = {
        p for p in packages if not re.match(r"aegis_policy(/|$)|sim/aegis_sim|server/aegis_server|ros2_ws/src|tests", p)
    }
    assert not outside


@pytest.mark.parametrize("module", ["aegis_policy", "aegis_policy.cli", "aegis_policy.inference.load"])
def test_importing_the_library_brings_in_nothing_heavy(module: str) -> None:
    heavy = sorted(WEB | ROS | SIMULATORS | MODEL_RUNTIMES)
    program = f"import sys, {module}; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(("package", "path"), SOURCES, ids=label)
def test_arrows_only_point_down_to_aegis_policy(package: str, path: Path) -> None:
    roots = {name.split(".")[0] for name in modules_imported(ast.parse(path.read_text()))}
    allowed = {"aegis_sim"} if package == "aegis_ros" and path.name in SIMULATED_ROBOT else set()
    assert not roots & (FORBIDDEN_IMPORTS[package] - allowed)


@pytest.mark.parametrize(("package", "path"), SOURCES, ids=label)
def test_nothing_unpickles(package: str, path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not {name.split(".")[0] for name in modules_imported(tree)} & UNSAFE_MODULES
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert "torch.load" not in calls
    allow_pickle = [
        k for node in ast.walk(tree) if isinstance(node, ast.Call) for k in node.keywords if k.arg == "allow_pickle"
    ]
    assert all(isinstance(keyword.value, ast.Constant) and keyword.value.value is False for keyword in allow_pickle)


def test_no_python_file_is_long_tests_and_benchmarks_neither() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in tracked_files() if path.suffix == ".py"}
    assert lengths
    assert {label(path): lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


@pytest.mark.parametrize(("package", "path"), SOURCES, ids=label)
def test_libraries_stay_silent(package: str, path: Path) -> None:
    source = path.read_text()
    if path.name not in {"commands.py", "demo.py"}:  # these print their result
        assert "print" not in [
            ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)
        ]


def test_no_registry_or_hub_is_named() -> None:
    texts = {".py", ".toml", ".txt", ".md", ".yaml", ".yml", ".json", ".cfg", ".html", ".js", ".sh", ""}
    offenders = [
        path.relative_to(ROOT).as_posix()
        for path in tracked_files()
        if path.suffix in texts and HOSTS.search(path.read_text(errors="ignore"))
    ]
    assert offenders == []
