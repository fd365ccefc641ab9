"""The torch backend keeps the contract: what it takes, what it refuses, and how it answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from aegis_policy import BatchedPolicy, Observation, ObservationError, Pending, Policy, PolicyInfo, act_many
from aegis_policy.inference import torch_policy
from aegis_policy.inference.load import load_policy
from aegis_policy.inference.torch_policy import TorchPolicy
from aegis_policy.model.checkpoint import save
from tests.model.builders import HORIZON, SIZE, build_checkpoint, norm_stats, policy_info

IMAGES = {
    name: np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    for seed, name in enumerate(("front", "wrist"))
}
LONGEST = 6
OBSERVATION = Observation(IMAGES, np.array([0.5, 0.04], np.float32), "pick up the red cube", stamp=12.5)


@pytest.fixture(scope="module")
def policy() -> TorchPolicy:
    return TorchPolicy(build_checkpoint(), "cpu")


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    monkeypatch.setattr(torch_policy, "MAX_ANSWER_TOKENS", LONGEST)  # random weights hardly ever end an answer


def test_it_is_a_policy(policy):
    assert isinstance(policy, Policy)
    chunk = policy.act(OBSERVATION, seed=0)
    assert chunk.actions.shape == (HORIZON, 3) and chunk.actions.dtype == np.float32
    assert chunk.stamp == 12.5
    assert PolicyInfo.from_dict(policy.info.to_dict()) == policy.info


def test_the_seed_decides(policy):
    first = policy.act(OBSERVATION, seed=7).actions
    torch.manual_seed(99)  # whatever others draw in between
    assert np.array_equal(policy.act(OBSERVATION, seed=7).actions, first)
    assert np.abs(policy.act(OBSERVATION, seed=8).actions - first).max() > 1e-4
    fresh = [policy.act(OBSERVATION).actions for _ in range(2)]
    assert np.abs(fresh[0] - fresh[1]).max() > 1e-4
    state = torch.random.get_rng_state()
    policy.act(OBSERVATION)
    assert torch.equal(torch.random.get_rng_state(), state)  # a fresh seed, and nobody else's


def test_many_at_once_get_what_each_would_get_alone(policy):
    assert isinstance(policy, BatchedPolicy)
    darker = {name: image // 2 for name, image in IMAGES.items()}
    observations = [
        OBSERVATION,
        replace(OBSERVATION, instruction="cube", stamp=3.0),  # shorter: padded in the batch
        replace(OBSERVATION, images=dict(reversed(darker.items())), state=np.array([0.3, 0.02], np.float32)),
    ]
    together = act_many(policy, observations, [5, 6, 5])
    for chunk, observation, seed in zip(together, observations, [5, 6, 5], strict=True):
        alone = policy.act(observation, seed=seed)
        # not to the last bit: products of matrices of another shape add up in another order
        np.testing.assert_allclose(chunk.actions, alone.actions, rtol=1e-4, atol=1e-5)
        assert chunk.stamp == observation.stamp and chunk.actions.dtype == np.float32
    again = act_many(policy, observations, [5, 6, 5])
    assert all(np.array_equal(one.actions, other.actions) for one, other in zip(together, again, strict=True))
    with pytest.raises(ObservationError, match="instruction: empty"):
        act_many(policy, [OBSERVATION, replace(OBSERVATION, instruction="")], [0, 1])


def test_everything_in_the_observation_counts(policy):
    chunk = policy.act(OBSERVATION, seed=0).actions
    darker = {name: image // 2 for name, image in IMAGES.items()}
    for change in (
        {"state": np.array([0.3, 0.04], np.float32)},
        {"instruction": "cube"},
        {"images": IMAGES | {"front": darker["front"]}},
        {"images": IMAGES | {"wrist": darker["wrist"]}},
    ):
        assert np.abs(policy.act(replace(OBSERVATION, **change), seed=0).actions - chunk).max() > 1e-5


def test_the_order_of_the_images_does_not(policy):
    turned = dict(reversed(IMAGES.items()))
    assert list(turned) != list(IMAGES)
    chunk = policy.act(replace(OBSERVATION, images=turned), seed=0)
    assert np.array_equal(chunk.actions, policy.act(OBSERVATION, seed=0).actions)
    assert list(policy.ask(turned, "cube")) == list(policy.ask(IMAGES, "cube"))


def test_it_speaks_si_units(policy):
    checkpoint = build_checkpoint()
    images = checkpoint.processor.images(np.stack([IMAGES["front"], IMAGES["wrist"]]))[None]
    noise = torch.randn(1, HORIZON, 3, generator=torch.Generator().manual_seed(5))
    stats = norm_stats()
    state = torch.tensor([(0.5 - 0.4) / 0.1, (0.04 - 0.05) / 0.02])[None]  # as build_checkpoint's statistics have it
    with torch.no_grad():
        prefix = checkpoint.policy.encode(images, *checkpoint.processor.prompt([OBSERVATION.instruction]))
        actions = checkpoint.policy.denoise(prefix, state, noise)[0].numpy()
    expected = actions * stats.actions.std + stats.actions.mean
    np.testing.assert_allclose(policy.act(OBSERVATION, seed=5).actions, expected, rtol=1e-4, atol=1e-5)


PENDING = Pending(np.array([[0.05, 0.3, 1.0], [0.04, 0.2, 0.0]], np.float32), 1)


def trained(max_delay: int) -> TorchPolicy:
    checkpoint = build_checkpoint()
    checkpoint.policy.expert.config = replace(checkpoint.policy.expert.config, max_delay=max_delay)
    return TorchPolicy(checkpoint, "cpu")


def test_any_policy_can_be_guided_and_a_trained_one_says_how_far(policy):
    assert policy.info.max_delay == HORIZON - 1
    assert trained(1).info.max_delay == 1
    with pytest.raises(ObservationError, match=r"pending.delay is 2: expected 0 to 1"):
        trained(1).act(replace(OBSERVATION, pending=replace(PENDING, delay=2)))


def test_a_trained_policy_begins_with_what_is_committed_in_si_units():
    chunk = trained(1).act(replace(OBSERVATION, pending=PENDING), seed=0).actions
    np.testing.assert_allclose(chunk[0], PENDING.actions[0], rtol=1e-5, atol=1e-6)
    assert np.abs(chunk[1] - PENDING.actions[1]).max() > 1e-3


def test_a_trained_policy_is_eased_into_what_was_pending():
    seen, policy = replace(OBSERVATION, pending=Pending(np.zeros((HORIZON - 1, 3), np.float32), 1)), trained(1)
    easing = policy._easing
    easing._change[:] = np.inf  # random weights close and open the gripper with every action
    eased = policy.act(seen, seed=0).actions
    policy._easing = None
    plain = policy.act(seen, seed=0).actions
    np.testing.assert_array_equal(eased, easing(plain, seen.pending))
    assert np.abs(eased - plain).max() > 1e-4 and trained(0)._easing is None


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_compiled_it_says_the_same_and_compiles_nothing_later(policy):
    compiled = TorchPolicy(build_checkpoint(), "cpu")
    compiled.compile()
    observations = [OBSERVATION, replace(OBSERVATION, instruction="cube"), OBSERVATION]
    with torch.compiler.set_stance("fail_on_recompile"):
        for batch in (1, 2, 3):
            ours, theirs = (act_many(each, observations[:batch], [1, 2, 3][:batch]) for each in (compiled, policy))
            for one, other in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(one.actions, other.actions, rtol=1e-4, atol=1e-5)
        for images in (IMAGES, {"front": IMAGES["front"]}):
            for question in ("cube", "what is left of the green ball?"):
                assert list(compiled.ask(images, question)) == list(policy.ask(images, question))


def test_guidance_works_in_the_units_of_the_policys_own_chunks(policy):
    """Told to go on with what it would have done anyway, it does; told otherwise, it does otherwise, beyond d too."""
    plain = policy.act(OBSERVATION, seed=0).actions
    same = policy.act(replace(OBSERVATION, pending=Pending(plain, 2)), seed=0).actions
    other = policy.act(replace(OBSERVATION, pending=PENDING), seed=0).actions
    scale = norm_stats().actions.std
    assert np.abs((same - plain) / scale)[:2].max() < 0.1 * np.abs((other - plain) / scale)[0].max()
    assert np.abs(other[2] - plain[2]).max() > 1e-4


@pytest.mark.parametrize("max_delay", [0, 2])
def test_acts_with_and_without_something_pending_share_a_pass(max_delay):
    policy = trained(max_delay)
    observations = [
        OBSERVATION,
        replace(OBSERVATION, pending=PENDING),
        replace(OBSERVATION, pending=replace(PENDING, delay=2)),
        replace(OBSERVATION, instruction="cube"),
    ]
    together = act_many(policy, observations, [1, 2, 2, 4])
    for chunk, observation, seed in zip(together, observations, [1, 2, 2, 4], strict=True):
        alone = policy.act(observation, seed=seed).actions
        np.testing.assert_allclose(chunk.actions, alone, rtol=1e-3, atol=1e-4)
    assert np.abs(together[1].actions - together[2].actions).max() > 1e-4
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"images": {"front": IMAGES["front"]}}, "missing camera image: wrist"),
        ({"images": IMAGES | {"side": IMAGES["front"]}}, "unknown camera 'side'"),
        ({"images": IMAGES | {"front": np.zeros((SIZE, SIZE + 1, 3), np.uint8)}}, r"camera 'front': expected uint8"),
        ({"images": IMAGES | {"front": np.zeros((SIZE, SIZE, 3))}}, r"got float64\[16, 16, 3\]"),
        ({"state": np.zeros(3, np.float32)}, r"state: expected 2 floats \['x', 'opening'\]"),
        ({"state": np.zeros(2, np.int64)}, "got int64"),
        ({"state": np.array([0, np.nan])}, "not a finite number: opening"),
        ({"state": np.array([0, 1e39])}, r"state: opening is 1e\+39, beyond 1e\+12"),
        ({"pending": Pending(np.array([[0, 0, 1e30]]), 0)}, r"pending\.actions: 1e\+30 is beyond 1e\+12"),
        ({"instruction": " \n"}, "instruction: empty"),
        ({"instruction": "pick \udcff"}, "instruction: not valid Unicode"),
        ({"pending": Pending(np.zeros((4, 3), np.float32), 1)}, r"pending.actions: expected 1 to 3 actions of 3"),
        ({"pending": Pending(np.zeros((0, 3), np.float32), 0)}, r"got shape \[0, 3\]"),
        ({"pending": Pending(np.zeros((2, 3), np.int64), 1)}, "pending.actions: expected finite floats, got int64"),
        ({"pending": Pending(np.full((2, 3), np.nan), 1)}, "pending.actions: .* is not finite"),
        ({"pending": Pending(np.zeros((3, 3)), 3)}, "pending.delay is 3: expected 0 to 2"),
        ({"pending": Pending(np.zeros((1, 3)), 2)}, "pending.delay is 2: expected 0 to 1, for 1 pending actions"),
        ({"pending": Pending(np.zeros((1, 3)), -1)}, "pending.delay is -1"),
    ],
)
def test_act_refuses(policy, change, complaint):
    with pytest.raises(ObservationError, match=complaint):
        policy.act(replace(OBSERVATION, **change))


@pytest.mark.parametrize(
    ("images", "question", "complaint"),
    [
        ({}, "cube", "missing camera image: front, wrist"),
        ({"side": IMAGES["front"]}, "cube", "unknown camera 'side'"),
        ({"front": IMAGES["front"][:8]}, "cube", "camera 'front': expected uint8"),
        (IMAGES, " ", "question: empty"),
    ],
)
def test_ask_refuses_at_once(policy, images, question, complaint):
    with pytest.raises(ObservationError, match=complaint):
        policy.ask(images, question)  # not only when the first piece is wanted


def test_answers_come_in_pieces_that_join_and_let_act_run_between(policy):
    chunk = policy.act(OBSERVATION, seed=3).actions
    whole = "".join(policy.ask(IMAGES, "what colour is the cube?"))
    pieces = []
    for piece in policy.ask(IMAGES, "what colour is the cube?"):
        assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()  # the caller's mode is its own
        assert np.array_equal(policy.act(OBSERVATION, seed=3).actions, chunk)
        pieces.append(piece)
    assert len(pieces) > 1 and all(pieces)
    assert "".join(pieces) == whole
    with torch.no_grad():
        images = policy._processor.images(np.stack([IMAGES["front"], IMAGES["wrist"]]))[None]
        prefix = policy._policy.encode(images, *policy._processor.prompt(["what colour is the cube?"]))
        ids = torch.cat(list(policy._policy.decode(prefix, LONGEST)))
    assert whole == policy._processor.text(ids.tolist())


def test_two_answers_at_once_do_not_mix(policy):
    questions = "what colour is the cube?", "is there a blue one?"
    alone = ["".join(policy.ask(IMAGES, question)) for question in questions]
    streams = [policy.ask(IMAGES, question) for question in questions]
    together = ["", ""]
    for _ in range(LONGEST):
        for i, stream in enumerate(streams):
            together[i] += next(stream, "")
    assert together == alone and alone[0] != alone[1]


def test_one_camera_is_enough_to_ask(policy):
    front, wrist = ("".join(policy.ask({name: IMAGES[name]}, "cube")) for name in ("front", "wrist"))
    assert front != wrist


def test_a_character_is_not_shown_before_its_last_byte(policy, monkeypatch):
    """Byte-fallback tokenizers, Gemma's among them, decode half a character to U+FFFD."""
    said = ["caf", "caf\ufffd", "café", "café \ufffd"]
    monkeypatch.setattr(policy._policy, "decode", lambda prefix, most: iter(torch.arange(4)[:, None]))
    monkeypatch.setattr(policy._processor, "text", lambda ids: said[len(ids) - 1])
    assert list(policy.ask(IMAGES, "cube")) == ["caf", "é", " \ufffd"]


def test_a_saved_policy_acts_as_it_did(policy, tmp_path):
    checkpoint = build_checkpoint()
    save(checkpoint, tmp_path)
    loaded = load_policy(tmp_path)
    assert replace(loaded.info, checkpoint="", max_delay=0) == policy_info()
    assert len(loaded.info.checkpoint) == 64
    np.testing.assert_allclose(loaded.act(OBSERVATION, seed=1).actions, policy.act(OBSERVATION, seed=1).actions)


def test_a_small_model_leaves_the_other_cores_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        torch.set_num_threads(2)
        TorchPolicy.from_pretrained(device="cpu")
        assert torch.get_num_threads() == 2, "the user's word goes first"
        monkeypatch.delenv("OMP_NUM_THREADS")
        TorchPolicy.from_pretrained(device="cpu")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
