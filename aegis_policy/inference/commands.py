"""The commands `aegis ask` and `aegis export`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from aegis_policy.policy import ObservationError, PolicyInfo


def ask(
    question: tyro.conf.Positional[str],
    *,
    image: Annotated[list[str], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="[CAMERA=]PNG")],
    checkpoint: str | None = None,
) -> None:
    """Ask a policy about a picture; the answer alone goes to stdout.

    Pictures are converted to RGB and resized to what the policy's camera gives.

    Args:
        question: what to ask, for example "what colour is the cube?"
        image: a picture, as FILE or CAMERA=FILE; give it once for each camera. A single FILE is the first camera's.
        checkpoint: folder or URL of a running server; the policy that ships with this package if left out.
    """
    from aegis_policy.inference.images import load_image
    from aegis_policy.inference.load import load_policy

    policy = load_policy(checkpoint)
    cameras = {camera.name: camera for camera in policy.info.cameras}
    images = {name: load_image(cameras[name], path) for name, path in name_images(policy.info, image).items()}
    for piece in policy.ask(images, question):
        print(piece, end="", flush=True)
    print()


def export(*, output: Path, checkpoint: str | None = None, format: Literal["onnx"] = "onnx") -> None:
    """Write a policy for onnxruntime, to act and answer without torch; then see that it does, as it did with torch.

    `aegis serve`, `eval` and `ask` take the folder as their --checkpoint.

    Args:
        output: folder to make.
        checkpoint: folder of a policy; the one that ships with this package if left out.
        format: of what is written.
    """
    from aegis_policy.inference.export import export_policy

    difference = export_policy(checkpoint, output)
    print(f"{output}: same answers, and actions within {difference:.1g} of a standard deviation")


def name_images(info: PolicyInfo, arguments: Sequence[str]) -> Mapping[str, Path]:
    """Camera name -> file, from arguments "FILE" or "CAMERA=FILE".

    Raises:
        ObservationError: several files and one of them without a camera, or two for the same camera.
    """
    names = [camera.name for camera in info.cameras]
    images: dict[str, Path] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals or name not in names:  # a file's name may hold a "=" of its own
            name, path = names[0], argument
            if len(arguments) > 1:
                raise ObservationError(f"--image {argument}: say which camera, as CAMERA=FILE; this policy has {names}")
        if name in images:
            raise ObservationError(f"--image {argument}: camera '{name}' has an image already")
        images[name] = Path(path)
    return images
