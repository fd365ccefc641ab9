"""What is in the folder of an exported policy, and whether it still is what was written: JSON and hashes only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aegis_policy.data.normalize import NormStats
from aegis_policy.policy import PolicyInfo

FILE = "manifest.json"
FORMAT, VERSION = "aegis-onnx", 2
WEIGHTS, TOKENIZER = "weights.bin", "tokenizer.json"
GRAPHS = ("vision", "prefix", "step", "decode")
GUIDE = "guide"
"""One more, of a policy that was not trained to be given its first actions."""


@dataclass(frozen=True)
class Value:
    """An input or output of a graph: its dtype as numpy names it, and its shape, where a name is any size."""

    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Graph:
    """What a graph takes and gives, by name, in order."""

    inputs: Mapping[str, Value]
    outputs: Mapping[str, Value]


@dataclass(frozen=True)
class Manifest:
    """An exported policy, but for its weights and words.

    Attributes:
        info: as the torch backend's; `info.checkpoint` is the hash of the weights that were exported.
        norm_stats: what turns SI units into what the graphs see, and back.
        image_size: pixels on a side of the images that `vision` takes, in [-1, 1].
        bos, eos, pad: tokens that begin a prompt, end an answer, and fill up a row.
        denoising_steps, temperature: of the Euler steps from noise to actions (`ExpertConfig`).
        graphs: by name, each of GRAPHS and, where there is one, GUIDE.
        files: SHA-256 of every other file of the folder, by name.
        opset: of the graphs' operators.
        versions: of the packages that made them.
    """

    info: PolicyInfo
    norm_stats: NormStats
    image_size: int
    bos: int
    eos: int
    pad: int
    denoising_steps: int
    temperature: float
    graphs: Mapping[str, Graph]
    files: Mapping[str, str]
    opset: int
    versions: Mapping[str, str]

    def save(self, folder: Path) -> None:
        """Write `folder`/manifest.json."""
        data = {"format": FORMAT, "version": VERSION} | {key: getattr(self, key) for key in self.__dataclass_fields__}
        data["info"], data["norm_stats"] = self.info.to_dict(), self.norm_stats.to_dict()
        data["graphs"] = {name: asdict(graph) for name, graph in self.graphs.items()}
        (folder / FILE).write_text(json.dumps(data, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read `folder`/manifest.json, and hold every other file against it.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: it is no manifest, one of another version, or a file is not the one that was written.
        """
        path = folder / FILE
        try:
            data = json.loads(path.read_text())
            kind, version = data.pop("format"), data.pop("version")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not the manifest of an exported policy, or damaged: {error!r}") from error
        if (kind, version) != (FORMAT, VERSION):
            raise ValueError(
                f"{path}: {kind} of version {version}, and this package reads {FORMAT} of version {VERSION}: "
                "update it, or export the checkpoint again with it"
            )
        try:
            data["info"] = PolicyInfo.from_dict(data["info"])
            data["norm_stats"] = NormStats.from_dict(data["norm_stats"], path)
            data["norm_stats"].check(len(data["info"].state), len(data["info"].actions), path)
            data["graphs"] = {name: _graph(graph) for name, graph in data["graphs"].items()}
            manifest = cls(**data)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: a part is missing or damaged: {error!r}") from error
        manifest.check(folder)
        return manifest

    def check(self, folder: Path) -> None:
        """Raise FileNotFoundError or ValueError, naming the file, unless all files are there as they were written."""
        named = {*map(graph_file, self.graphs), WEIGHTS, TOKENIZER}
        if set(self.files) != named or set(self.graphs) - {GUIDE} != set(GRAPHS):
            raise ValueError(f"{folder / FILE}: does not name the files and graphs of an exported policy")
        for name, expected in self.files.items():
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder / name}: missing; export the checkpoint again")
            if sha256(folder / name) != expected:
                raise ValueError(
                    f"{folder / name}: not the file that was exported (its SHA-256 is another than in {FILE}): "
                    "damaged, cut off or changed; export the checkpoint again"
                )


def graph_file(name: str) -> str:
    return f"{name}.onnx"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _graph(data: Mapping[str, Any]) -> Graph:
    return Graph(
        *(
            {name: Value(value["dtype"], tuple(value["shape"])) for name, value in data[side].items()}
            for side in ("inputs", "outputs")
        )
    )
