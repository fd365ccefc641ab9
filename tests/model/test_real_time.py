"""Chunks that go on from what is pending, against the papers' formulas written down a second time, in NumPy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from aegis_policy.data.ahead import hold
from aegis_policy.model.expert import primed_cache
from aegis_policy.model.policy import Prefix
from aegis_policy.model.real_time import conditioned, guided
from tests.model.builders import HORIZON, build_policy, build_processor, build_vlm, gaussian, pixels

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def ahead(actions: torch.Tensor, length: list[int], delay: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """What is pending and how much it is held to."""
    held = hold(np.array(length), np.array(delay), actions.shape[1])
    return actions, torch.from_numpy(held).to(actions.dtype)


def weight(i: int, horizon: int, delay: int, executed: int) -> float:
    """W_i as arXiv 2506.07339 has it, with H, d and s."""
    if i < delay:
        return 1.0
    if i >= horizon - executed:
        return 0.0
    c = (horizon - executed - i) / (horizon - executed - delay + 1)
    return c * (math.exp(c) - 1) / (math.e - 1)


@pytest.mark.parametrize(("executed", "delay"), [(4, 2), (4, 6), (1, 0), (9, 1), (5, 5)])
def test_the_mask_is_the_papers(executed, delay):
    weights = hold(np.array([10 - executed, 0]), np.array([delay, 0]), 10)
    np.testing.assert_allclose(weights[0], [weight(i, 10, delay, executed) for i in range(10)], rtol=1e-6)
    assert not weights[1].any()  # nothing is pending
    assert (np.diff(weights[0]) <= 0).all() and (weights[0] == 1).sum() == delay


def by_the_paper(velocity, noise, known, executed, delay, steps, h=1e-5):
    """Algorithm 1's guided inference of one chunk [H, A], in the paper's time (0 is noise); v = -`velocity`.

    The vector-Jacobian product is taken by central differences of width 2 h.
    """
    horizon = len(noise)
    mask = np.array([weight(i, horizon, delay, executed) for i in range(horizon)])[:, None]

    def end(x, tau):
        return x + (1 - tau) * -velocity(x, 1 - tau)

    x = noise.copy()
    for k in range(steps):
        tau = k / steps
        error = (known - end(x, tau)) * mask
        pull = np.empty_like(x)
        for at in np.ndindex(*x.shape):
            step = np.zeros_like(x)
            step[at] = h
            pull[at] = (error * (end(x + step, tau) - end(x - step, tau))).sum() / (2 * h)
        r2 = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
        scale = steps if tau == 0 else min(steps, (1 - tau) / (tau * r2))
        x = x + (-velocity(x, 1 - tau) + scale * pull) / steps
    return x


@pytest.mark.parametrize(("executed", "delay", "steps"), [(2, 1, 4), (1, 3, 10), (3, 0, 5)])
def test_guidance_is_the_papers_through_a_field_that_mixes_actions(executed, delay, steps):
    rng = np.random.default_rng(0)
    mixing, bias = rng.normal(size=(10, 10)) / 3, rng.normal(size=10)
    noise, known = rng.normal(size=(2, 5, 2)), rng.normal(size=(2, 5, 2))

    def velocity(x, t):
        return np.tanh(x.reshape(10) @ mixing + t * bias).reshape(5, 2)

    def field(x, time):
        assert x.shape == (2, 1, 5, 2) and time.shape == (2, 1)
        flat = x.flatten(2) @ torch.tensor(mixing) + time[..., None] * torch.tensor(bias)
        return flat.tanh().unflatten(2, (5, 2))

    pending = ahead(torch.tensor(known), [5 - executed] * 2, [delay] * 2)
    found = guided(field, torch.tensor(noise), *pending, steps).numpy()
    for one in range(2):
        expected = by_the_paper(velocity, noise[one], known[one], executed, delay, steps)
        np.testing.assert_allclose(found[one], expected, rtol=1e-6, atol=1e-8)


def test_where_actions_go_together_the_free_ones_follow_the_held_ones():
    """Demonstrations that are one number c ~ N(m, s^2), repeated H times: a flow with a closed form.

    E[c | x_t] = m + k (mean(x) - (1 - t) m) with k = (1 - t) s^2 / ((1 - t)^2 s^2 + t^2 / H), and v = (x - E[c]) / t.
    Guidance moves all actions alike, the committed and the free, so mean(x) is all there is to compute. A guidance
    that leaves out the Jacobian leaves the free actions where they would have been.
    """
    horizon, delay, m, s, target, steps = 6, 2, 0.3, 0.8, 1.7, 10
    noise = gaussian(1, horizon, 1).double()

    def gain(t):
        return (1 - t) * s**2 / ((1 - t) ** 2 * s**2 + t**2 / horizon)

    def field(x, time):
        t = time[0, 0].item()
        expected = m + gain(t) * (x.mean(dim=2, keepdim=True) - (1 - t) * m)
        return (x - expected) / t

    found = guided(field, noise, *ahead(torch.full((1, horizon, 1), target).double(), [delay], [delay]), steps)
    mean = noise.mean().item()
    for step in range(steps):
        t = 1 - step / steps
        end = m + gain(t) * (mean - (1 - t) * m)
        pull = delay * (target - end) * gain(t) / horizon
        scale = steps if step == 0 else min(steps, ((1 - t) ** 2 + t**2) / (t * (1 - t)))
        mean -= ((mean - end) / t - scale * pull) / steps
    torch.testing.assert_close(found, torch.full_like(found, mean))
    free = guided(field, noise, *ahead(torch.zeros(1, horizon, 1).double(), [0], [0]), steps)
    assert (free - target).abs().min() > 1 and (found - target).abs().max() < 0.5 * (free - target).abs().min()


def test_conditioned_actions_stay_clean_and_the_field_is_told():
    known, noise = gaussian(2, 5, 3), gaussian(2, 5, 3, seed=1)
    pending = ahead(known, [4, 5], [0, 3])
    seen = []

    def field(x, time):
        seen.append((x.clone(), time.clone()))
        return torch.ones_like(x)

    found = conditioned(field, noise, *pending, 4)
    for step, (x, time) in enumerate(seen):
        assert torch.equal(x[1, 0, :3], known[1, :3]) and not time[1, 0, :3].any()
        assert (time[0] == 1 - step / 4).all() and (time[1, 0, 3:] == 1 - step / 4).all()
    assert torch.equal(found[1, :3], known[1, :3])
    torch.testing.assert_close(found[1, 3:], noise[1, 3:] - 1)
    torch.testing.assert_close(found[0], noise[0] - 1)


@pytest.fixture(scope="module")
def exact():
    """The policy in float64, and what it has read."""
    processor = build_processor()
    policy = build_policy(build_vlm(processor)).double()
    with torch.no_grad():
        return policy, policy.encode(pixels(2).double(), *processor.prompt(["what colour is the cube", "cube"]))


def test_the_product_goes_through_the_expert(exact):
    policy, prefix = exact
    state, noise, known = gaussian(2, 2).double(), gaussian(2, HORIZON, 3).double(), gaussian(2, HORIZON, 3, seed=1)
    found = policy.go_on(prefix, state, noise, *ahead(known.double(), [2, 1], [1, 1]), steps=2).numpy()
    for one in range(2):
        alone = Prefix(
            [(keys[one : one + 1], values[one : one + 1]) for keys, values in prefix.keys_values],
            prefix.valid[one : one + 1],
            prefix.hidden[one : one + 1],
        )

        def velocity(x, t, one=one, alone=alone):
            with torch.no_grad():
                noisy, time = torch.tensor(x)[None, None], torch.full((1, 1), t).double()
                cache = primed_cache(alone.keys_values)
                return policy.expert(cache, alone.valid, state[one : one + 1], noisy, time)[0, 0].double().numpy()

        # Gemma 2 takes its norms and softmax in float32, whatever the weights: small differences drown.
        expected = by_the_paper(velocity, noise[one].numpy(), known[one].numpy(), HORIZON - 2 + one, 1, 2, h=1e-2)
        np.testing.assert_allclose(found[one], expected, rtol=5e-3, atol=5e-3)


@torch.no_grad()
def test_with_nothing_pending_both_are_denoising(policy, processor, monkeypatch):
    prefix = policy.encode(pixels(2), *processor.prompt(["what colour is the cube", "cube"]))
    state, noise = gaussian(2, 2), gaussian(2, HORIZON, 3)
    nothing = ahead(torch.zeros(2, HORIZON, 3), [0, 0], [0, 0])
    plain = policy.denoise(prefix, state, noise)
    torch.testing.assert_close(policy.go_on(prefix, state, noise, *nothing), plain, **CLOSE)
    monkeypatch.setattr(policy.expert, "config", replace(policy.expert.config, max_delay=2))
    assert torch.equal(policy.go_on(prefix, state, noise, *nothing), plain)
    known = gaussian(2, HORIZON, 3, seed=1)
    held = policy.go_on(prefix, state, noise, *ahead(known, [3, 3], [2, 0]))
    assert torch.equal(held[0, :2], known[0, :2])
    torch.testing.assert_close(held[1], plain[1], **CLOSE)
