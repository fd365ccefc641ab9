"""From a name to a policy, whatever stands behind it."""

from __future__ import annotations

from pathlib import Path

from aegis_policy.inference import manifest
from aegis_policy.policy import Policy


def load_policy(source: str | Path | None = None, *, compiled: bool = False) -> Policy:
    """A policy to act and answer with.

    Args:
        source: a checkpoint's folder, a training folder (its newest checkpoint), what `aegis export` wrote, the URL of
            a server, or None for the policy that ships.
        compiled: compile a checkpoint's model first, which takes minutes.

    Raises:
        FileNotFoundError: no checkpoint there.
        ConnectionError: no server there.
        ValueError: what is there is damaged, or is an exported policy and onnxruntime, which it needs, is missing; or
            what is to be compiled is no checkpoint.
    """
    if str(source).startswith(("http://", "https://")):
        _refuse_to_compile(compiled, source)
        from aegis_policy.inference.remote import RemotePolicy

        return RemotePolicy(str(source))
    if source is not None and Path(source, manifest.FILE).is_file():
        _refuse_to_compile(compiled, source)
        try:
            from aegis_policy.inference.onnx_policy import OnnxPolicy
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{source}: an exported policy needs the package '{error.name}': "
                'pip install "aegis-policy[onnx]", or [onnx-gpu] to run it on an NVIDIA GPU'
            ) from error
        return OnnxPolicy(source)
    from aegis_policy.inference.torch_policy import TorchPolicy

    return TorchPolicy.from_pretrained(source, compiled=compiled)


def _refuse_to_compile(wanted: bool, source: str | Path | None) -> None:
    if wanted:
        raise ValueError(f"{source}: no checkpoint, so there is nothing to compile; leave --compile out")


def pinned(source: str | None) -> str | None:
    """What `source` means now: of a training folder its newest checkpoint, which a moment later is another."""
    from aegis_policy.model.checkpoint import resolve

    if source is None or source.startswith(("http://", "https://")) or Path(source, manifest.FILE).is_file():
        return source
    return resolve(source)


def own_folder(source: str | Path | None) -> Path:
    """The folder of a checkpoint of one's own: of a training folder, the newest.

    Raises:
        ValueError: a server, a name on the hub, or the policy that ships.
        FileNotFoundError: no checkpoint there.
    """
    from aegis_policy.model.checkpoint import resolve

    found = None if source is None or str(source).startswith(("http://", "https://")) else Path(resolve(source))
    if found is None or not found.is_dir():
        raise ValueError(f"{source or 'the policy that ships'}: not a folder of your own; name one with --checkpoint")
    return found
