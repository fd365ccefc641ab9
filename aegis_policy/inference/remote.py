"""A policy on the other side of HTTP: the client of `aegis serve`, and a `Policy` like any other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import numpy as np

from aegis_policy.inference.wire import CONTENT_TYPE, CONTRACT_HEADER, WireError, pack, unpack
from aegis_policy.policy import (
    ActionChunk,
    Observation,
    ObservationError,
    PolicyInfo,
    check_chunk,
    check_observation,
    check_question,
)

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
API_KEY = "AEGIS_API_KEY"
"""The environment variable with a server's key."""


def authorization(key: str | None = None) -> dict[str, str]:
    """The header with a server's key, if there is one; if left out, AEGIS_API_KEY's.

    Raises:
        ConnectionError: what is there is not one key, such as a file of several.
    """
    key = (os.environ.get(API_KEY, "") if key is None else key).strip()
    if not (key.isascii() and key.isprintable()):  # nor will httpx send it, but it would show it
        raise ConnectionError(f"{API_KEY}: not a key; expected one line of printable ASCII")
    return {"authorization": f"Bearer {key}"} if key else {}


class RemotePolicy:
    """The policy behind `url`, such as "http://127.0.0.1:8000".

    Raises:
        ObservationError: the observation or question does not fit the policy, in the server's words (422).
        ConnectionError: no answer from `url`, an answer that broke off, one that is not a policy server's, or one of
            another policy than was found there first, with other actions, units, state, cameras or rate.
    """

    def __init__(
        self, url: str, *, timeout: float = 60.0, connect_timeout: float = 5.0, api_key: str | None = None
    ) -> None:
        """Connect and ask what the policy is.

        Args:
            url: address of the server; a path in it is kept as a prefix.
            timeout: seconds without a byte from the server before giving up.
            connect_timeout: seconds to wait for the connection itself.
            api_key: a key of the server; if left out, what the environment variable AEGIS_API_KEY holds, if anything.
        """
        self.url = url.rstrip("/")
        try:
            self._client = httpx.Client(
                base_url=self.url,
                timeout=httpx.Timeout(timeout, connect=connect_timeout),
                # A proxy set for the web cannot reach this machine's own loopback; without this it would be asked to.
                mounts={f"all://{host}": None for host in _LOOPBACK},
                headers=authorization(api_key),
            )
        except httpx.InvalidURL as error:
            raise ConnectionError(f"{url}: not an address ({error}); expected one as http://127.0.0.1:8000") from error
        data = self._call("GET", "/v1/info")
        try:
            self._info = PolicyInfo.from_dict(data)
        except (KeyError, TypeError) as error:
            raise ConnectionError(f"{self.url}: /v1/info is not a policy's; is this `aegis serve`?") from error
        self._contract = self._info.contract()

    @property
    def info(self) -> PolicyInfo:
        return self._info

    def act(self, observation: Observation, *, seed: int | None = None) -> ActionChunk:
        """The next chunk of actions, as `Policy.act`."""
        check_observation(self.info, observation)
        body = {
            "images": dict(observation.images),
            "state": np.asarray(observation.state),
            "instruction": observation.instruction,
            "stamp": float(observation.stamp),
            "seed": None if seed is None else int(seed),
        }
        if (pending := observation.pending) is not None:  # a server that does not know of it need not be told
            body["pending"] = {"actions": np.asarray(pending.actions), "delay": int(pending.delay)}
        answer = self._call("POST", "/v1/act", body)
        try:
            chunk = ActionChunk(actions=np.array(answer["actions"], dtype=np.float32), stamp=answer["stamp"])
            check_chunk(self.info, chunk)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ConnectionError(f"{self.url}: /v1/act gave no actions ({error}); is this `aegis serve`?") from error
        return chunk

    def ask(self, images: Mapping[str, np.ndarray], question: str) -> Iterator[str]:
        """The answer, streamed, as `Policy.ask`; closing the iterator early tells the server to stop."""
        check_question(self.info, images, question)
        return self._stream({"images": dict(images), "question": question, "stream": True})

    def close(self) -> None:
        """Close the connections to the server."""
        self._client.close()

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            response = self._client.request(method, path, **_packed(body))
        except httpx.HTTPError as error:
            raise self._lost(error) from error
        self._check(response)
        # What a server says of itself may be another's by now: a restart with another policy, at the same address.
        acts = response.headers.get(CONTRACT_HEADER)
        if acts is not None and acts != self._contract:
            raise ConnectionError(
                f"{self.url}: another policy is served there by now, with other actions, state, cameras or rate; "
                f"connect anew"
            )
        try:
            return response.json() if body is None else unpack(response.content)
        except (ValueError, WireError) as error:
            raise ConnectionError(f"{self.url}: {path} is not a policy server's; is this `aegis serve`?") from error

    def _stream(self, body: dict[str, Any]) -> Iterator[str]:
        try:
            whole = False
            with self._client.stream("POST", "/v1/ask", **_packed(body)) as response:
                if response.is_error:
                    response.read()
                self._check(response)
                for line in response.iter_lines():
                    event = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                    if "token" in event:
                        yield event["token"]
                    whole = whole or "answer" in event  # and the end is read too: the connection serves again
                    if "detail" in event:
                        raise ConnectionError(f"{self.url}: {event['detail']}")
        except httpx.HTTPError as error:
            raise self._lost(error) from error
        if not whole:
            raise ConnectionError(f"{self.url}: the answer broke off")

    def _check(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        try:
            detail = response.json()["detail"]
        except (ValueError, KeyError, TypeError):
            detail = response.text[:200]
        if response.status_code == 422:
            raise ObservationError(detail)
        hint = f" (its key goes into the environment variable {API_KEY})" if response.status_code == 401 else ""
        raise ConnectionError(f"{self.url}: {response.status_code} {response.reason_phrase}: {detail}{hint}")

    def _lost(self, error: httpx.HTTPError) -> ConnectionError:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            hint = "name the file with it, or with who signed it, in the environment variable SSL_CERT_FILE"
            return ConnectionError(f"{self.url}: its certificate is not trusted here; {hint} ({error})")
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ConnectionError(f"{self.url}: no policy server there ({error}); start one with `aegis serve`")
        reason = "no answer in time" if isinstance(error, httpx.TimeoutException) else str(error)
        return ConnectionError(f"{self.url}: {reason or type(error).__name__}")


def _packed(body: dict[str, Any] | None) -> dict[str, Any]:
    """How httpx sends a body."""
    return {} if body is None else {"content": pack(body), "headers": {"content-type": CONTENT_TYPE}}
