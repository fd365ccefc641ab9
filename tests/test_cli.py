"""The `aegis` command as a user meets it: quick help, one-line errors, and advice when an extra is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest

from aegis_policy import ObservationError, cli

CONTRACT = {
    "pretrain",
    "anchor",
    "train",
    "record",
    "eval",
    "serve",
    "ask",
    "data inspect",
    "data convert",
    "data from-bag",
}


def shout(word: str, times: int = 1) -> None:
    """Say a word, loudly."""
    print(word.upper() * times)


def broken(kind: str) -> None:
    """Fail in the way asked for."""
    if kind == "value":
        raise ValueError("horizon: expected 10,\n  got 0")
    if kind == "observation":
        raise ObservationError("camera 'front': missing")
    if kind == "file":
        raise FileNotFoundError(2, "No such file or directory", "demos.hdf5")
    if kind == "connection":
        raise ConnectionError("no server at http://127.0.0.1:1")
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "late":
        import no_such_simulator  # type: ignore[import-not-found]  # noqa: F401
    raise RuntimeError("a bug")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for the real commands, two of them with an extra that is not installed."""
    points = [
        EntryPoint("shout", f"{__name__}:shout", cli.GROUP),
        EntryPoint("broken", f"{__name__}:broken [sim]", cli.GROUP),
        EntryPoint("gone", f"{__name__}:no_such_function", cli.GROUP),
        EntryPoint("absent", "no_such_package.commands:run [server]", cli.GROUP),
        EntryPoint("say loudly", f"{__name__}:shout", cli.GROUP),
        EntryPoint("say nothing", "no_such_package.commands:run [server]", cli.GROUP),
    ]
    monkeypatch.setattr(cli, "entry_points", lambda group: points)


def test_the_commands_of_the_contract_are_installed() -> None:
    assert CONTRACT <= {command.name for command in entry_points(group=cli.GROUP)}


def test_help_lists_every_command_without_importing_torch() -> None:
    program = (
        "import json, sys\nfrom aegis_policy.cli import main\ntry:\n    main(['--help'])\n"
        "except SystemExit as end:\n"
        "    heavy = [name for name in ('torch', 'transformers', 'robosuite', 'fastapi') if name in sys.modules]\n"
        "    print(json.dumps({'code': end.code, 'heavy': heavy}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *shown, last = done.stdout.strip().splitlines()
    assert json.loads(last) == {"code": 0, "heavy": []}
    listed = "\n".join(shown)
    assert all(f"• {name.split()[0]} " in listed for name in CONTRACT)
    assert "Not available" not in listed


@pytest.mark.parametrize("command", sorted(CONTRACT))
def test_every_command_has_helpful_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*command.split(), "--help"])
    assert end.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 6  # a usage line alone is not help


def test_the_installed_script_refuses_a_wrong_argument() -> None:
    script = Path(sys.executable).with_name("aegis")
    done = subprocess.run([script, "ask", "what is it?", "--picture", "x.png"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--picture" in done.stderr and done.stdout == ""


@pytest.mark.usefixtures("commands")
def test_arguments_reach_the_function(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["shout", "--word", "left", "--times", "2"])
    assert capsys.readouterr().out == "LEFTLEFT\n"


@pytest.mark.usefixtures("commands")
def test_commands_of_a_group_go_by_two_words(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["say", "loudly", "--word", "right"])
    assert capsys.readouterr().out == "RIGHT\n"
    with pytest.raises(SystemExit) as end:
        cli.main(["say", "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "loudly" in shown and "Not available" in shown


@pytest.mark.usefixtures("commands")
@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("value", "aegis: error: horizon: expected 10, got 0\n"),
        ("observation", "aegis: error: camera 'front': missing\n"),
        ("file", "aegis: error: [Errno 2] No such file or directory: 'demos.hdf5'\n"),
        ("connection", "aegis: error: no server at http://127.0.0.1:1\n"),
    ],
)
def test_an_expected_error_is_one_line_and_status_2(kind: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["broken", "--kind", kind])
    assert end.value.code == 2
    assert capsys.readouterr().err == line


@pytest.mark.usefixtures("commands")
def test_debugging_brings_the_traceback_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEGIS_DEBUG", "1")
    with pytest.raises(ValueError, match="horizon"):
        cli.main(["broken", "--kind", "value"])


@pytest.mark.usefixtures("commands")
def test_a_bug_is_never_hidden() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["broken", "--kind", "bug"])


@pytest.mark.usefixtures("commands")
def test_an_interrupt_ends_quietly() -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["broken", "--kind", "interrupt"])
    assert end.value.code == 130


@pytest.mark.usefixtures("commands")
@pytest.mark.parametrize(
    ("args", "advice"),
    [
        (["absent", "--port", "8000"], 'pip install "aegis-policy[server]"'),
        (["absent", "--help"], 'pip install "aegis-policy[server]"'),
        (["say", "nothing", "--now"], 'pip install "aegis-policy[server]"'),
        (["broken", "--kind", "late"], 'pip install "aegis-policy[sim]" && pip install --no-deps robosuite'),
    ],
)
def test_a_missing_extra_says_how_to_install_it(
    args: list[str], advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(args)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert advice in error and error.count("\n") == 1


@pytest.mark.usefixtures("commands")
def test_commands_that_cannot_be_loaded_are_still_listed_beside_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("shout", "absent", "gone"))
