"""Question sets: what is read, what is drawn from them, and what is said when a file is not one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from aegis_policy.data.vqa import Legend, VQASet, open_sets

IMAGES = 30


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """Image i is all i; every image asks for its colour and its place, every third one also how many there are."""
    path = tmp_path_factory.mktemp("vqa") / "set.hdf5"
    fill = np.arange(IMAGES, dtype=np.uint8)[:, None, None, None]
    rows = []
    for i in range(IMAGES):
        row = [["what colour?", f"colour {i}", "colour"], ["point to it", "<loc0016>", "point"]]
        rows.append(json.dumps(row + [["how many?", f"{i}", "count"]] * (i % 3 == 0)))
    with h5py.File(path, "w") as file:
        file["images/wrist"] = np.broadcast_to(fill + 100, (IMAGES, 4, 5, 3))
        file["images/front"] = np.broadcast_to(fill, (IMAGES, 4, 5, 3))
        file["labels/front"] = np.broadcast_to(fill[..., 0] + 50, (IMAGES, 4, 5))
        file.create_dataset("questions", data=rows, dtype=h5py.string_dtype())
        file.attrs["shapes"] = ["cube", "ball"]
    return path


def test_images_questions_and_labels_stay_together(path):
    questions = VQASet(path)
    assert len(questions) == IMAGES and questions.legend == Legend((), ("cube", "ball"), ())
    assert questions.cameras == ["front", "wrist"]
    rows = np.array([4, 2])
    images = questions.stack(rows, ["wrist", "front"])
    assert images.shape == (2, 2, 4, 5, 3) and images.dtype == np.uint8
    assert images[:, :, 0, 0, 0].tolist() == [[104, 4], [102, 2]]
    assert questions.stack(rows, ["front"], labels=True)[:, :, 0, 0].tolist() == [[54], [52]]
    assert questions.questions[4][0].answer == "colour 4"
    assert {"what colour?", "colour 7", "<loc0016>"} <= set(questions.texts())


def test_samples_are_the_same_every_time_even_and_about_their_own_image(path):
    questions = VQASet(path)
    samples = questions.samples(16, seed=3)
    assert Counter(sample.question.family for sample in samples) == {"colour": 8, "count": 8}
    for sample in samples:
        assert sample.images.shape == (1, 4, 5, 3)
        assert sample.question.answer.split()[-1] == str(sample.images[0, 0, 0, 0])  # the first camera's, front
    assert len({(sample.question.family, sample.question.answer) for sample in samples}) == 16
    again = questions.samples(16, seed=3)
    assert [sample.question for sample in again] == [sample.question for sample in samples]
    assert [sample.question for sample in questions.samples(16, seed=4)] != [sample.question for sample in samples]


def test_what_a_small_family_lacks_others_give(path):
    families = Counter(sample.question.family for sample in VQASet(path).samples(30))
    assert families == {"count": 10, "colour": 20}
    assert len(VQASet(path).samples(1000)) == 40  # all there are, without the points


def test_samples_can_have_both_cameras(path):
    sample = VQASet(path).samples(2, cameras=["front", "wrist"])[0]
    front, wrist = sample.images[:, 0, 0, 0]
    assert wrist == front + 100


def test_a_file_that_is_no_question_set_is_refused(path, tmp_path):
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"other\.hdf5: not a question set: group 'images' is missing"):
        VQASet(tmp_path / "other.hdf5")
    with h5py.File(path) as whole, h5py.File(tmp_path / "short.hdf5", "w") as file:
        file["images/front"] = whole["images/front"][:-1]
        file.create_dataset("questions", data=whole["questions"].asstr()[:], dtype=h5py.string_dtype())
    with pytest.raises(ValueError, match="29 images of 'front' but 30 question lists"):
        VQASet(tmp_path / "short.hdf5")
    (tmp_path / "cut.hdf5").write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"cut\.hdf5: not a whole HDF5 file"):
        VQASet(tmp_path / "cut.hdf5")
    with pytest.raises(FileNotFoundError, match=r"none\.hdf5"):
        VQASet(tmp_path / "none.hdf5")


@pytest.mark.parametrize(
    ("pixels", "rows", "message"),
    [
        (np.zeros((2, 4, 5, 3), np.float32), [[["what?", "it", "any"]]] * 2, r"'front' are float32\[2, 4, 5, 3\], exp"),
        (np.zeros((2, 4, 5), np.uint8), [[["what?", "it", "any"]]] * 2, r"'front' are uint8\[2, 4, 5\], expected"),
        (np.zeros((2, 4, 5, 3), np.uint8), [[["what?", "it"]]] * 2, r"not JSON lists of \[text, answer, family\]"),
        (np.zeros((2, 4, 5, 3), np.uint8), [3, 4], r"not JSON lists of \[text, answer, family\]"),
    ],
)
def test_pictures_and_questions_of_another_form_are_refused(tmp_path, pixels, rows, message):
    with h5py.File(tmp_path / "set.hdf5", "w") as file:
        file["images/front"] = pixels
        file.create_dataset("questions", data=[json.dumps(row) for row in rows], dtype=h5py.string_dtype())
    with pytest.raises(ValueError, match=message):
        VQASet(tmp_path / "set.hdf5")


def test_a_set_of_points_alone_has_nothing_to_be_measured_by(path, tmp_path):
    with h5py.File(path) as whole, h5py.File(tmp_path / "points.hdf5", "w") as file:
        file["images/front"] = whole["images/front"][:1]
        rows = [json.dumps([["point to it", "<loc0016>", "point"]])]
        file.create_dataset("questions", data=rows, dtype=h5py.string_dtype())
    with pytest.raises(ValueError, match=r"points\.hdf5: no question whose answer counts"):
        VQASet(tmp_path / "points.hdf5").samples(5)


def test_two_sets_of_one_name_are_refused(path, tmp_path):
    (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"set\.hdf5: has the same name as .*set\.hdf5"):
        open_sets([path, tmp_path / path.name])
