"""A process that lives and ends with the server: the simulated robot of `aegis serve --sim`."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from aegis_policy.inference.remote import API_KEY

logger = logging.getLogger(__name__)

END_S = 5.0


class Companion:
    """Runs `python -m` with `arguments`, which must end by itself should the server be killed.

    Attributes:
        url: of the server, set before `run`.
    """

    def __init__(self, arguments: Sequence[str], key: str | None, advice: str) -> None:
        """Pass `key` on in the environment; `advice` is what to do should the process fail."""
        self._arguments, self._key, self._advice = arguments, key, advice
        self.url = ""

    async def run(self) -> None:
        """Start it, and say so when it ends; ends it when cancelled."""
        environment = os.environ | ({API_KEY: self._key} if self._key else {})
        command = (sys.executable, "-m", *self._arguments, "--server", self.url)
        # In a session of its own: Ctrl+C is for the server, which ends this one in order.
        process = await asyncio.create_subprocess_exec(*command, env=environment, start_new_session=True)
        try:
            status = await process.wait()
            logger.error("'%s' ended with status %d; %s", " ".join(command[1:]), status, self._advice)
        finally:
            if process.returncode is None:
                await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(END_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
