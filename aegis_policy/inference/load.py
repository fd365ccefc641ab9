"""From a name to a policy, whatever stands behind it."""

from __future__ import annotations

from pathlib import Path

from aegis_policy.policy import Policy


def load_policy(source: str | Path | None = None) -> Policy:
    """A policy to act and answer with.

    Args:
        source: a checkpoint's folder, a training folder (its newest checkpoint), the URL of a server, or None for the
            policy that ships.

    Raises:
        FileNotFoundError: no checkpoint there.
        ConnectionError: no server there.
    """
    if str(source).startswith(("http://", "https://")):
        from aegis_policy.inference.remote import RemotePolicy

        return RemotePolicy(str(source))
    from aegis_policy.inference.torch_policy import TorchPolicy

    return TorchPolicy.from_pretrained(source)
