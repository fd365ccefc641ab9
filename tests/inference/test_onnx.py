"""An exported policy acts and answers as the checkpoint does, and a folder that is not what was exported is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from aegis_policy import BatchedPolicy, Observation, ObservationError, Pending, act_many
from aegis_policy.inference import export, manifest
from aegis_policy.inference.load import load_policy
from aegis_policy.inference.onnx_policy import OnnxPolicy, best_device
from aegis_policy.inference.remote import RemotePolicy
from aegis_policy.inference.torch_policy import TorchPolicy
from aegis_policy.model.checkpoint import save
from tests.inference.exported import Exported, export_small, scenes, small_checkpoint
from tests.linear_policy import serving
from tests.model.builders import HORIZON, TEXTS

pytestmark = pytest.mark.timeout(900)  # exporting takes a minute, several on a busy machine

AEGIS = str(Path(sys.executable).with_name("aegis"))
WITHIN = 1e-5
"""SI units that an action may differ."""
QUESTIONS = ("what colour is the cube?", "is there a blue one?", "what is left of the green ball?", "cube")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def policy(exported: Exported) -> OnnxPolicy:
    loaded = load_policy(exported.folder)
    assert isinstance(loaded, OnnxPolicy)
    return loaded


@pytest.fixture(scope="module")
def torches(exported: Exported) -> TorchPolicy:
    return TorchPolicy.from_pretrained(exported.checkpoint, "cpu")


@pytest.fixture
def folder(exported: Exported, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(exported.folder, tmp_path / "copy"))


def test_acts_as_with_torch(policy: OnnxPolicy, torches: TorchPolicy) -> None:
    assert isinstance(policy, BatchedPolicy) and policy.info == torches.info
    for seed, seen in enumerate(scenes(16)):
        ours, theirs = policy.act(seen, seed=seed), torches.act(seen, seed=seed)
        np.testing.assert_allclose(ours.actions, theirs.actions, rtol=0, atol=WITHIN)
        assert ours.actions.dtype == np.float32 and ours.stamp == seen.stamp
        assert np.array_equal(policy.act(seen, seed=seed).actions, ours.actions)
        assert np.abs(policy.act(seen, seed=seed + 1).actions - ours.actions).max() > 1e-3
    assert np.abs(policy.act(seen).actions - policy.act(seen).actions).max() > 1e-3  # a fresh seed each time


def test_answers_as_with_torch_piece_by_piece(policy: OnnxPolicy, torches: TorchPolicy) -> None:
    said = set()
    for seen in scenes(4):
        for cameras in (("front",), ("wrist",), ("wrist", "front")):
            images = {name: seen.images[name] for name in cameras}
            for question in QUESTIONS:
                pieces = list(policy.ask(images, question))
                assert pieces == list(torches.ask(images, question))
                said.add("".join(pieces))
    assert len(said) > 8  # and not always the same


def test_many_at_once_get_what_torch_gives_them(policy: OnnxPolicy, torches: TorchPolicy) -> None:
    seen, seeds = scenes(len(TEXTS)), [5, 6, 7, 5, 6, 7, 8, 2**40]
    assert len({len(each.instruction.split()) for each in seen}) > 2  # padded in the batch
    chunks = act_many(policy, seen, seeds)
    for ours, theirs, each, seed in zip(chunks, act_many(torches, seen, seeds), seen, seeds, strict=True):
        np.testing.assert_allclose(ours.actions, theirs.actions, rtol=0, atol=WITHIN)
        np.testing.assert_allclose(ours.actions, policy.act(each, seed=seed).actions, rtol=0, atol=WITHIN)
        assert ours.stamp == each.stamp


def go_on(seen: Observation, delay: int, actions: np.ndarray) -> Observation:
    return replace(seen, pending=Pending(actions, delay))


def test_goes_on_from_what_is_pending_as_with_torch(policy: OnnxPolicy, torches: TorchPolicy) -> None:
    assert policy.info.max_delay == HORIZON - 1
    first, second, third = scenes(3)
    pending = torches.act(first, seed=1).actions
    seen = [go_on(first, 1, pending[1:]), second, go_on(third, 2, pending)]
    for ours, theirs in zip(*(act_many(each, seen, [1, 2, 3]) for each in (policy, torches)), strict=True):
        np.testing.assert_allclose(ours.actions, theirs.actions, rtol=0, atol=WITHIN)
    alone = policy.act(seen[2], seed=3).actions
    np.testing.assert_allclose(alone, torches.act(seen[2], seed=3).actions, rtol=0, atol=WITHIN)
    assert np.abs(alone - policy.act(third, seed=3).actions).max() > 1e-2
    with pytest.raises(ObservationError, match=r"pending\.delay is 3"):
        policy.act(go_on(first, 3, pending))


def test_what_was_trained_to_be_given_its_first_actions_is(folder: Path) -> None:
    """The same weights, said to be trained for it: such an export is one without the graph that guides."""
    checkpoint = small_checkpoint()
    checkpoint.policy.expert.config = replace(checkpoint.policy.expert.config, max_delay=2)
    torches = TorchPolicy(checkpoint, "cpu")

    def trained(data: dict) -> None:
        data["info"]["max_delay"] = 2
        del data["graphs"]["guide"], data["files"]["guide.onnx"]

    edit(trained)(folder)
    (folder / "guide.onnx").unlink()
    policy = OnnxPolicy(folder, "cpu")
    first, second = scenes(2)
    given = torches.act(first, seed=1).actions
    seen = [go_on(first, 2, given), second]
    for ours, theirs in zip(*(act_many(each, seen, [1, 2]) for each in (policy, torches)), strict=True):
        np.testing.assert_allclose(ours.actions, theirs.actions, rtol=0, atol=WITHIN)
    np.testing.assert_allclose(policy.act(seen[0], seed=5).actions[:2], given[:2], rtol=0, atol=1e-6)


def test_reads_words_as_the_processor_does(policy: OnnxPolicy) -> None:
    processor = small_checkpoint().processor
    for texts in (TEXTS, ["  Pick up, the RED cube!\n"], ["a quokka", "<eos> cube <image>", "<loc0016>"], ["?"]):
        for ours, theirs in zip(policy._prompt(texts), processor.prompt(texts), strict=True):
            assert ours.dtype == theirs.numpy().dtype and np.array_equal(ours, theirs.numpy())
    for text in TEXTS:
        ids = processor.answer_ids(text)
        assert policy._text(ids) == processor.text(ids)


def test_refuses_what_torch_refuses(policy: OnnxPolicy) -> None:
    seen = scenes(1)[0]
    for change, complaint in (
        ({"images": {"front": seen.images["front"]}}, "missing camera image: wrist"),
        ({"state": np.zeros(3, np.float32)}, "state: expected 2 floats"),
        ({"instruction": " "}, "instruction: empty"),
    ):
        with pytest.raises(ObservationError, match=complaint):
            policy.act(replace(seen, **change))
    with pytest.raises(ObservationError, match="unknown camera 'side'"):
        policy.ask({"side": seen.images["front"]}, "cube")  # at once, not only when the first piece is wanted
    with pytest.raises(ObservationError, match="question: empty"):
        policy.ask(seen.images, " ")


def test_two_answers_at_once_do_not_mix_and_act_may_come_between(policy: OnnxPolicy) -> None:
    first, second = scenes(2)
    alone = ["".join(policy.ask(each.images, QUESTIONS[0])) for each in (first, second)]
    chunk = policy.act(first, seed=1).actions
    streams, together = [policy.ask(each.images, QUESTIONS[0]) for each in (first, second)], ["", ""]
    for _ in range(40):
        for i, stream in enumerate(streams):
            together[i] += next(stream, "")
        assert np.array_equal(policy.act(first, seed=1).actions, chunk)
    assert together == alone and alone[0] != alone[1]


def test_the_manifest_says_what_the_graphs_take_and_give(exported: Exported) -> None:
    written = manifest.Manifest.load(exported.folder)
    assert {path.name for path in exported.folder.iterdir()} == {*written.files, manifest.FILE}
    for name, graph in written.graphs.items():
        session = ort.InferenceSession(exported.folder / manifest.graph_file(name))
        for values, found in ((graph.inputs, session.get_inputs()), (graph.outputs, session.get_outputs())):
            assert {key: list(value.shape) for key, value in values.items()} == {
                each.name: each.shape for each in found
            }
            assert all(value.shape[0] == "batch" for value in values.values())
    assert written.graphs["step"].inputs["in_noisy"] == manifest.Value("float32", ("batch", 3, 3))
    assert written.opset >= 18 and {"torch", "onnx", "aegis-policy"} <= set(written.versions)
    weights = (exported.checkpoint / "model.safetensors").stat().st_size
    assert (exported.folder / manifest.WEIGHTS).stat().st_size < 4 * weights  # each once, but for alignment


def edit(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = json.loads((folder / manifest.FILE).read_text())
        change(data)
        (folder / manifest.FILE).write_text(json.dumps(data))

    return damage


def flip(folder: Path) -> None:
    data = bytearray((folder / manifest.WEIGHTS).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / manifest.WEIGHTS).write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (flip, r"weights\.bin: not the file that was exported"),
        (lambda folder: os.truncate(folder / "step.onnx", 5000), r"step\.onnx: not the file that was exported"),
        (lambda folder: (folder / "decode.onnx").unlink(), r"decode\.onnx: missing"),
        (lambda folder: os.truncate(folder / manifest.FILE, 500), "not the manifest of an exported policy, or damaged"),
        (lambda folder: (folder / manifest.FILE).write_text("[]"), "not the manifest of an exported policy"),
        (edit(lambda data: data.update(version=1)), "of version 1, and this package reads aegis-onnx of version 2"),
        (edit(lambda data: data.update(format="other")), "other of version 2"),
        (edit(lambda data: data.pop("temperature")), "a part is missing or damaged: .*temperature"),
        (edit(lambda data: data["info"].pop("horizon")), "a part is missing or damaged: .*horizon"),
        (edit(lambda data: data["norm_stats"]["state"].update(std=[0.0, 1.0])), r"state\.std\[0\] is not positive"),
        (edit(lambda data: data["files"].pop("vision.onnx")), "does not name the files"),
    ],
)
def test_a_folder_that_is_not_what_was_exported_is_refused(
    folder: Path, damage: Callable[[Path], None], complaint: str
) -> None:
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=complaint):
        load_policy(folder)


def test_an_export_that_acts_otherwise_is_not_kept(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0 < exported.difference < 1e-4
    save(small_checkpoint(seed=2), tmp_path / "other")
    (tmp_path / ".new.partial").mkdir()  # of a process that was killed
    monkeypatch.setattr(
        export, "_write", lambda checkpoint, to: shutil.copytree(exported.folder, to, dirs_exist_ok=True)
    )
    with pytest.raises(ValueError, match="nothing was exported: for 'pick up the red cube', onnxruntime's actions are"):
        export.export_policy(tmp_path / "other", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_nothing_is_overwritten(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="mine: is there already; choose another folder"):
        export.export_policy(exported.checkpoint, tmp_path / "mine")
    assert not list((tmp_path / "mine").iterdir())


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)


def test_runs_without_torch(exported: Exported) -> None:
    done = run(
        "import sys, numpy as np\n"
        "from aegis_policy import Observation\n"
        "from aegis_policy.inference.load import load_policy\n"
        f"policy = load_policy({str(exported.folder)!r})\n"
        "images = {c.name: np.zeros((c.height, c.width, 3), np.uint8) for c in policy.info.cameras}\n"
        "policy.act(Observation(images, np.zeros(2, np.float32), 'cube'), seed=0)\n"
        "answer = ''.join(policy.ask(images, 'cube'))\n"
        "print(*[name for name in ('torch', 'transformers', 'onnx', 'h5py', 'safetensors') if name in sys.modules])"
    )
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("onnxruntime", "['ask', '--image', 'x.png', '--checkpoint', {folder!r}, 'cube']"),
        ("onnxscript", "['export', '--output', {folder!r} + '-new']"),
    ],
)
def test_without_the_extra_says_how_to_install_it(exported: Exported, missing: str, words: str) -> None:
    arguments = words.format(folder=str(exported.folder))
    done = run(f"import sys; sys.modules[{missing!r}] = None\nfrom aegis_policy.cli import main; main({arguments})")
    assert done.returncode == 2
    assert f"needs the package '{missing}': pip install \"aegis-policy[onnx]\"" in done.stderr.splitlines()[-1]


def test_the_provider_is_the_one_that_runs(
    exported: Exported, policy: OnnxPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    if best_device() == "cpu":
        assert policy.provider == "CPUExecutionProvider"
        with pytest.raises(ValueError, match="was to run on CUDAExecutionProvider"):
            OnnxPolicy(exported.folder, "cuda")
    with caplog.at_level("INFO"):
        assert OnnxPolicy(exported.folder, "cpu").provider == "CPUExecutionProvider"
    assert "CPUExecutionProvider" in caplog.text


def test_a_server_takes_it(exported: Exported, torches: TorchPolicy, tmp_path: Path) -> None:
    seen = scenes(1)[0]
    with serving(tmp_path / "log", AEGIS, "serve", "--checkpoint", str(exported.folder)) as server:
        server.wait()
        remote = RemotePolicy(server.url)
        assert remote.info == torches.info
        actions = torches.act(seen, seed=3).actions
        np.testing.assert_allclose(remote.act(seen, seed=3).actions, actions, rtol=0, atol=WITHIN)
        assert list(remote.ask(seen.images, QUESTIONS[0])) == list(torches.ask(seen.images, QUESTIONS[0]))
    assert OnnxPolicy(exported.folder).provider in server.log.read_text()
