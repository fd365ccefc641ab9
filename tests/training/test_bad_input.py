"""What is wrong with the input is said before the first step, and nothing on disk is another than before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from aegis_policy.data.convert import convert
from aegis_policy.model import tensors
from aegis_policy.model.checkpoint import load, load_backbone
from aegis_policy.model.processor import Processor, word_tokenizer
from aegis_policy.training.anchor import Anchor, anchor_of_sets
from aegis_policy.training.config import PretrainConfig, TrainConfig
from aegis_policy.training.pretrain import pretrain
from aegis_policy.training.train import resume, train
from tests.training.tiny import SIZE, write_demonstrations, write_questions


@pytest.fixture(scope="module")
def recipe(vlm) -> TrainConfig:
    return TrainConfig(
        checkpoint=str(vlm), method="naive", steps=2, batch_size=2, noise_samples=1, horizon=3, eval_every=0, keep=0
    )


@pytest.fixture(scope="module")
def policy(recipe, demonstrations, tmp_path_factory) -> Path:
    """A training folder after 2 steps, with a checkpoint at each."""
    output = tmp_path_factory.mktemp("policy") / "run"
    train(replace(recipe, dataset=(str(demonstrations),), save_every=1), output)
    return output


def files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Everything under a folder, with what is in it and when that was written."""
    return {
        path: (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*")
    }


def refused(folder: Path, message: str, attempt: Callable[[], object]) -> None:
    before = files(folder)
    with pytest.raises((ValueError, OSError), match=message):
        attempt()
    assert files(folder) == before


def no_number(data):
    data["demo_3/obs/state"][2, 1] = np.nan


def an_infinite_action(data):
    data["demo_1/actions"][0, 2] = np.inf


def one_camera_missing(data):
    del data["demo_5/obs/wrist_image"]


def the_first_has_one_camera_less(data):
    del data["demo_0/obs/wrist_image"]


def no_camera(data):
    for demo in data.values():
        del demo["obs/wrist_image"], demo["obs/front_image"]


def no_rate(data):
    data.attrs["control_hz"] = np.nan


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_number, r"pick\.hdf5: demo_3: 'obs/state', row 2: not a finite number"),
        (an_infinite_action, r"pick\.hdf5: demo_1: 'actions', row 0: not a finite number"),
        (one_camera_missing, r"pick\.hdf5: demo_5: no 'obs/wrist_image'; other demonstrations have that camera"),
        (the_first_has_one_camera_less, r"pick\.hdf5: demo_0: no 'obs/wrist_image'; other demonstrations have"),
        (no_camera, r"pick\.hdf5: no images of camera any name"),
        (no_rate, r"pick\.hdf5: control_hz is nan, expected actions per second"),
    ],
)
def test_a_damaged_demonstration(recipe, tmp_path, damage, message):
    path = write_demonstrations(tmp_path / "pick.hdf5")
    with h5py.File(path, "r+") as file:
        damage(file["data"])
    refused(tmp_path, message, lambda: train(replace(recipe, dataset=(str(path),)), tmp_path / "run"))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_a_truncated_file(recipe, tmp_path, share):
    path = write_demonstrations(tmp_path / "pick.hdf5")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    message = r"pick\.hdf5: not a whole HDF5 file"
    refused(tmp_path, message, lambda: train(replace(recipe, dataset=(str(path),)), tmp_path / "run"))


@pytest.mark.parametrize(("kind", "message"), [("*.mp4", "not a whole video"), ("*.parquet", "not a whole parquet")])
def test_a_truncated_lerobot_folder(recipe, demonstrations, tmp_path, kind, message):
    convert(demonstrations, tmp_path / "set")
    for path in (tmp_path / "set").rglob(kind):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(tmp_path, message, lambda: train(replace(recipe, dataset=(str(tmp_path / "set"),)), tmp_path / "run"))


def test_frames_at_another_rate_than_the_folder_says(recipe, demonstrations, tmp_path):
    convert(demonstrations, tmp_path / "set")
    path = tmp_path / "set/data/chunk-000/file-000.parquet"
    table = pq.read_table(path, partitioning=None)
    place = table.column_names.index("timestamp")
    slower = [2 * time for time in table["timestamp"].to_pylist()]
    column = pa.array(slower, table.schema.field(place).type)
    pq.write_table(table.set_column(place, table.schema.field(place), column), path)
    message = r"episode 0: 'timestamp', row 1: 0\.2, expected 0\.1"
    refused(tmp_path, message, lambda: train(replace(recipe, dataset=(str(tmp_path / "set"),)), tmp_path / "run"))


def faster(data):
    data.attrs["control_hz"] = 20


def without_wrist(data):
    for demo in data.values():
        del demo["obs/wrist_image"]


@pytest.mark.parametrize(
    ("change", "message"),
    [(faster, r"its control_hz are 10\.0, the data's are 20\.0"), (without_wrist, "its cameras are .*wrist")],
)
def test_data_that_is_not_the_policys(recipe, policy, tmp_path, change, message):
    path = write_demonstrations(tmp_path / "pick.hdf5")
    with h5py.File(path, "r+") as file:
        change(file["data"])
    going_on = replace(recipe, dataset=(str(path),), checkpoint=str(policy))
    refused(tmp_path, message, lambda: train(going_on, tmp_path / "run"))


def test_data_sets_of_different_rates(recipe, demonstrations, tmp_path):
    path = write_demonstrations(tmp_path / "fast.hdf5")
    with h5py.File(path, "r+") as file:
        faster(file["data"])
    both = replace(recipe, dataset=(str(demonstrations), str(path)))
    message = r"fast\.hdf5: does not go with .*control_hz 20\.0 instead of 10\.0"
    refused(tmp_path, message, lambda: train(both, tmp_path / "run"))


@pytest.mark.parametrize("start", ["vlm", "policy"])
def test_a_checkpoint_with_another_tokenizer(request, recipe, demonstrations, tmp_path, start):
    folder = request.getfixturevalue(start)
    source = folder / "checkpoints/last/pretrained_model" if start == "policy" else folder
    copy = shutil.copytree(source, tmp_path / "start")
    Processor(word_tokenizer(["quite other words than those"]), SIZE).save_pretrained(copy)
    mixed = replace(recipe, dataset=(str(demonstrations),), checkpoint=str(copy))
    refused(tmp_path, "the tokenizer is another model's", lambda: train(mixed, tmp_path / "run"))


def test_an_anchor_of_another_backbone(recipe, demonstrations, tmp_path):
    Anchor(torch.zeros(3, 64), torch.ones(3, 64), 1).save(tmp_path / "anchor.safetensors")
    anchored = replace(
        recipe, method="aegis", dataset=(str(demonstrations),), anchor=str(tmp_path / "anchor.safetensors")
    )
    message = r"the anchor is of another backbone: \[3, 64\].*\[2, 32\]"
    refused(tmp_path, message, lambda: train(anchored, tmp_path / "run"))


def anchor_file(start: Path, questions: Path, path: Path) -> Path:
    anchor_of_sets(*load_backbone(start), [questions], 12).save(path)
    return path


def test_an_anchor_of_another_backbone_of_the_same_sizes(recipe, vlm, demonstrations, questions, policy, tmp_path):
    """What it was fine-tuned from is none, but only a policy that has its anchor can tell which that was."""
    vlms, tuned = (anchor_file(start, questions, tmp_path / start.name) for start in (vlm, policy))
    anchored = replace(recipe, method="aegis", dataset=(str(demonstrations),), steps=1, anchor=str(tuned))
    message = "the anchor is of another backbone than"
    refused(tmp_path, message, lambda: train(anchored, tmp_path / "run"))
    first = train(replace(anchored, anchor=str(vlms)), tmp_path / "first")
    goes_on = replace(anchored, checkpoint=str(first))
    refused(tmp_path, message, lambda: train(goes_on, tmp_path / "run"))
    train(replace(goes_on, anchor=str(vlms)), tmp_path / "of what it was")
    train(replace(goes_on, anchor=str(anchor_file(first, questions, tmp_path / "now"))), tmp_path / "of what it is")
    train(replace(anchored, checkpoint=str(policy), anchor=str(vlms)), tmp_path / "tuned without an anchor")


def test_answers_that_the_tokenizer_has_no_word_for(recipe, demonstrations, tmp_path):
    """All of them would be the same one, learned and counted as right."""
    path = write_questions(tmp_path / "capitals.hdf5")
    with h5py.File(path, "r+") as file:
        file["questions"][3] = json.dumps([["what colour is the cube", "paris", "capital"]])
    asks = replace(recipe, dataset=(str(demonstrations),), vqa=(str(path),), eval_every=1)
    message = r"capitals\.hdf5: the tokenizer has no word for 'paris', one of 1 answers"
    refused(tmp_path, message, lambda: train(asks, tmp_path / "run"))
    learns = replace(asks, vqa=(), method="co-train", replay=(str(path),), replay_share=0.5)
    refused(tmp_path, message, lambda: train(learns, tmp_path / "run"))
    train(replace(asks, eval_every=0), tmp_path / "never asked")


def test_cameras_and_replayed_pictures_of_different_sizes_are_no_bad_input(recipe, tmp_path):
    path, questions = write_demonstrations(tmp_path / "pick.hdf5"), tmp_path / "small.hdf5"
    write_questions(tmp_path / "large.hdf5")
    write_questions(questions)
    with h5py.File(path, "r+") as file, h5py.File(questions, "r+") as small:
        for group, name in (
            *((demo["obs"], "wrist_image") for demo in file["data"].values()),
            (small["images"], "front"),
        ):
            less = group[name][:, :8, :12]
            del group[name]
            group[name] = less
    replayed = replace(recipe, method="co-train", batch_size=8, replay=(str(questions), str(tmp_path / "large.hdf5")))
    made = load(train(replace(replayed, dataset=(str(path),), replay_share=0.5), tmp_path / "run"))
    assert [(camera.height, camera.width) for camera in made.info.cameras] == [(SIZE, SIZE), (8, 12)]


def test_a_normalization_that_the_policy_does_not_have(recipe, policy, demonstrations, tmp_path):
    other = replace(recipe, dataset=(str(demonstrations),), checkpoint=str(policy), normalization="quantiles")
    message = "--normalization quantiles: the start is a policy, which keeps its own, mean-std"
    refused(tmp_path, message, lambda: train(other, tmp_path / "run"))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0,), "--dataset-weights takes one number for each --dataset, got 1 for 2"),
        ((1.0, 0.0), r"--dataset-weights must be positive numbers, got \[1\.0, 0\.0\]"),
        ((1.0, float("nan")), "--dataset-weights must be positive numbers"),
        ((1.0, float("inf")), "--dataset-weights must be positive numbers"),
        ((1.0, 1e-9), "--dataset-weights: 1e-09 gives data set 2 less than one of the"),
    ],
)
def test_bad_weights(recipe, demonstrations, tmp_path, weights, message):
    mixture = replace(recipe, dataset=(str(demonstrations),) * 2, dataset_weights=weights)
    refused(tmp_path, message, lambda: train(mixture, tmp_path / "run"))


def test_other_demonstrations_than_a_run_began_with(recipe, tmp_path):
    path = write_demonstrations(tmp_path / "pick.hdf5")
    train(replace(recipe, dataset=(str(path),), save_every=1), tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/000002")
    write_demonstrations(path, episodes=7)
    with pytest.raises(ValueError, match="run: the demonstrations are not those that this run began with"):
        resume(tmp_path / "run")
    write_demonstrations(path)
    resume(tmp_path / "run")


def test_other_questions_than_a_run_began_with(recipe, demonstrations, questions, tmp_path):
    asked = Path(shutil.copy(questions, tmp_path / "asked.hdf5"))
    kept = {"dataset": (str(demonstrations),), "vqa": (str(asked),), "eval_every": 1, "save_every": 1}
    train(replace(recipe, **kept), tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/000002")
    with h5py.File(asked, "r+") as file:
        file["images/front"][0] = 0
    with pytest.raises(ValueError, match="run: the --vqa sets are not those that this run began with"):
        resume(tmp_path / "run")
    shutil.copy(questions, asked)
    resume(tmp_path / "run")


def test_a_horizon_that_is_not_the_policys(recipe, demonstrations, tmp_path):
    train(replace(recipe, dataset=(str(demonstrations),), horizon=4), tmp_path / "run")
    policy = str(tmp_path / "run/checkpoints/last/pretrained_model")
    again = replace(recipe, dataset=(str(demonstrations),), checkpoint=policy)
    with pytest.raises(ValueError, match="--horizon 5: the start is a policy, which keeps its own, 4"):
        train(replace(again, horizon=5), tmp_path / "other")
    train(replace(again, horizon=None), tmp_path / "other")


@pytest.mark.parametrize("method", ["distil-features", "lora"])
def test_another_start_than_a_run_began_with(recipe, method, vlm, demonstrations, tmp_path):
    start, dataset = Path(shutil.copytree(vlm, tmp_path / "vlm")), (str(demonstrations),)
    train(replace(recipe, dataset=dataset, method=method, checkpoint=str(start), save_every=1), tmp_path / "run")
    assert json.loads((tmp_path / "run/train_config.json").read_text())["strength"] == {"lora": None}.get(method, 32.0)
    shutil.rmtree(tmp_path / "run/checkpoints/000002")
    weights = load_file(start / "model.safetensors")
    save_file({name: 1.01 * tensor for name, tensor in weights.items()}, start / "model.safetensors")
    with pytest.raises(ValueError, match="run: the --checkpoint is not the one that this run began with"):
        resume(tmp_path / "run")
    save_file(weights, start / "model.safetensors", metadata={"format": "pt"})
    resume(tmp_path / "run")


def test_a_disk_that_is_full_is_named_and_leaves_nothing(recipe, demonstrations, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("no space left on the device")

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(OSError, match=r"model\.safetensors: cannot be written: no space left"):
        train(replace(recipe, dataset=(str(demonstrations),)), tmp_path / "run")
    assert not list((tmp_path / "run/checkpoints").iterdir())


def test_what_lies_in_the_output_folder_stays(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    path = write_demonstrations(tmp_path / "pick.hdf5")
    with h5py.File(path, "r+") as file:
        no_number(file["data"])
    refused(tmp_path, "not a finite number", lambda: train(replace(recipe, dataset=(str(path),)), tmp_path / "run"))


def test_a_run_is_not_touched_by_a_resumption_that_cannot_be(recipe, tmp_path):
    path = write_demonstrations(tmp_path / "pick.hdf5")
    run = tmp_path / "run"
    train(replace(recipe, dataset=(str(path),), save_every=1), run)
    shutil.rmtree(run / "checkpoints/000002")
    with h5py.File(path, "r+") as file:
        no_number(file["data"])
    (run / "checkpoints/last").unlink()
    (run / "checkpoints/last").symlink_to("000001")
    before = {name: content for name, (_, content) in files(run).items()}  # the link is made anew
    with pytest.raises(ValueError, match=r"pick\.hdf5: demo_3: 'obs/state', row 2: not a finite number"):
        resume(run)
    assert {name: content for name, (_, content) in files(run).items()} == before


def test_a_checkpoint_is_no_run_to_go_on_with(policy):
    checkpoint = policy / "checkpoints/last/pretrained_model"
    before = sorted(checkpoint.iterdir())
    for command in (resume, lambda path: pretrain(PretrainConfig(), path, resume=True)):
        with pytest.raises(
            ValueError, match=rf"pretrained_model: a checkpoint; go on with the run, {policy} \(--resume\)"
        ):
            command(checkpoint)
    assert sorted(checkpoint.iterdir()) == before


def test_a_recipe_of_another_command_is_refused(tmp_path):
    (tmp_path / "train_config.json").write_text(PretrainConfig(vqa=("a",)).to_json())
    with pytest.raises(ValueError, match="of another command: go on with the run by aegis pretrain"):
        resume(tmp_path)
    (tmp_path / "train_config.json").write_text(TrainConfig(dataset=("a",)).to_json())
    with pytest.raises(ValueError, match="of another command: go on with the run by aegis train"):
        pretrain(PretrainConfig(), tmp_path, resume=True)
