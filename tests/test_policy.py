"""Acting for several robots at once: the policy's own way where it has one, else one after the other."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from aegis_policy import ActionChunk, BatchedPolicy, Feature, Observation, PolicyInfo, act_many
from tests.linear_policy import LinearPolicy

POLICY = LinearPolicy()
IMAGES = {camera.name: np.zeros((camera.height, camera.width, 3), np.uint8) for camera in POLICY.info.cameras}
OBSERVATIONS = [Observation(IMAGES, np.full(3, place, np.float32), "pick up", stamp=place) for place in (0.1, 0.2)]


class Together(LinearPolicy):
    def act_many(self, observations, seeds):
        rows = zip(observations, seeds, strict=True)
        return [ActionChunk(np.full((4, 3), seed, np.float32), seen.stamp) for seen, seed in rows]


def test_a_policy_without_a_way_of_its_own_acts_for_one_after_the_other():
    assert not isinstance(POLICY, BatchedPolicy)
    for chunk, observation, seed in zip(act_many(POLICY, OBSERVATIONS, [3, 4]), OBSERVATIONS, [3, 4], strict=True):
        assert np.array_equal(chunk.actions, POLICY.act(observation, seed=seed).actions)
        assert chunk.stamp == observation.stamp


def test_a_policys_own_way_goes_first():
    chunks = act_many(Together(), OBSERVATIONS, [3, 4])
    assert [chunk.actions.max() for chunk in chunks] == [3, 4]


def test_a_contract_is_of_what_callers_rely_on_and_survives_the_way():
    info = POLICY.info
    assert PolicyInfo.from_dict(json.loads(json.dumps(info.to_dict()))).contract() == info.contract()
    same = replace(info, model="other", checkpoint="f" * 64, instructions=(), control_hz=int(info.control_hz))
    assert same.contract() == info.contract()
    millimetres = replace(info, actions=(Feature("dx", "mm"), *info.actions[1:]))
    assert millimetres.contract() != info.contract() != replace(info, control_hz=20).contract()


def test_nothing_to_act_for_is_nothing_done():
    assert act_many(POLICY, [], []) == [] == act_many(Together(), [], [])


def test_every_observation_needs_a_seed():
    with pytest.raises(ValueError, match="2 observations and 1 seeds"):
        act_many(POLICY, OBSERVATIONS, [3])
