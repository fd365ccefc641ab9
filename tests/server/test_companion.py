"""The process beside the server: it is told where the server is, said to have failed, and ended with it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from aegis_server.companion import Companion

PROGRAM = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1]).write_text(" ".join([*sys.argv[2:], os.environ["AEGIS_API_KEY"], str(os.getpid())]))
time.sleep(60)
"""


def test_a_companion_that_fails_is_reported_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    companion = Companion(("there_is_no_such_module",), None, "what to do")
    with caplog.at_level(logging.ERROR):
        asyncio.run(companion.run())
    assert "'-m there_is_no_such_module --server ' ended with status 1; what to do" in caplog.text


def test_a_companion_gets_address_and_key_and_ends_when_it_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said = tmp_path / "said"
    companion = Companion(("beside", str(said)), "the key", "")
    companion.url = "http://127.0.0.1:8000"

    async def begin_and_cancel() -> None:
        task = asyncio.create_task(companion.run())
        while not (said.exists() and said.read_text()):
            await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(asyncio.wait_for(begin_and_cancel(), 30))
    *told, process = said.read_text().split()
    assert told == ["--server", "http://127.0.0.1:8000", "the", "key"]
    assert not Path(f"/proc/{process}").exists()
