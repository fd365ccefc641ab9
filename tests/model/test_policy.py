"""What the policy's arithmetic promises: samples, padding, cameras, the flow's loss and its integration."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import beta, kstest
from torch import nn

from aegis_policy.model.expert import primed_cache
from aegis_policy.model.policy import AegisPolicy, Begun, Prefix, sample_time
from tests.model.builders import HORIZON, IMAGE_TOKENS, gaussian, pixels

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def prefix(policy: AegisPolicy, processor) -> Prefix:
    with torch.no_grad():
        return policy.encode(pixels(2), *processor.prompt(["what colour is the cube", "cube"]))


class Velocity(nn.Module):
    """A velocity field written by hand, in the place of the expert."""

    def __init__(self, field):
        super().__init__()
        self.field, self.config = field, SimpleNamespace(denoising_steps=10, temperature=1.0)

    def forward(self, cache, valid, state, noisy, time):
        return self.field(noisy, time[..., None, None])


def with_velocity(policy: AegisPolicy, field, monkeypatch: pytest.MonkeyPatch) -> AegisPolicy:
    monkeypatch.setitem(policy._modules, "expert", Velocity(field))
    return policy


@torch.no_grad()
def test_samples_in_one_pass_are_those_of_separate_passes(policy, prefix):
    state, noisy, time = gaussian(2, 2), gaussian(2, 4, HORIZON, 3), torch.rand(2, 4)
    together = policy.expert(primed_cache(prefix.keys_values), prefix.valid, state, noisy, time)
    for m in range(4):
        cache = primed_cache(prefix.keys_values)
        alone = policy.expert(cache, prefix.valid, state, noisy[:, m : m + 1], time[:, m : m + 1])
        torch.testing.assert_close(together[:, m : m + 1], alone, **CLOSE)


@torch.no_grad()
def test_padding_changes_nothing(policy, processor):
    images, (ids, valid) = pixels(1), processor.prompt(["what colour is the cube"])
    # padded with a word that would matter if anyone saw it
    more = torch.full((1, 5), processor.tokenizer.convert_tokens_to_ids("red"))
    padded_ids, padded = torch.cat([ids, more], 1), torch.cat([valid, torch.zeros_like(more, dtype=torch.bool)], 1)
    prefixes = policy.encode(images, ids, valid), policy.encode(images, padded_ids, padded)
    state, noise = gaussian(1, 2), gaussian(1, HORIZON, 3)
    actions = [policy.denoise(prefix, state, noise) for prefix in prefixes]
    torch.testing.assert_close(*actions, **CLOSE)
    answers = [torch.stack(list(policy.decode(prefix, 6))) for prefix in prefixes]
    assert torch.equal(*answers)


@torch.no_grad()
def test_images_come_first_in_the_order_of_the_cameras(policy, processor, prefix):
    images, (ids, valid) = pixels(1), processor.prompt(["cube"])
    embeds = policy.embed(images, ids)
    for camera in range(2):
        alone = policy.embed(images[:, camera : camera + 1], ids)[:, :IMAGE_TOKENS]
        place = slice(camera * IMAGE_TOKENS, (camera + 1) * IMAGE_TOKENS)
        torch.testing.assert_close(embeds[:, place], alone, **CLOSE)
    state, noise = gaussian(1, 2), gaussian(1, HORIZON, 3)
    one = policy.denoise(policy.encode(images, ids, valid), state, noise)
    other = policy.denoise(policy.encode(images.flip(1), ids, valid), state, noise)
    assert (one - other).abs().max() > 1e-3


@torch.no_grad()
def test_a_prefix_serves_many_times_and_stays_as_it_is(policy, prefix):
    before = [(keys.clone(), values.clone()) for keys, values in prefix.keys_values]
    state, noise = gaussian(2, 2), gaussian(2, HORIZON, 3)
    first, answer = policy.denoise(prefix, state, noise), torch.stack(list(policy.decode(prefix, 4)))
    assert torch.equal(policy.denoise(prefix, state, noise), first)
    assert torch.equal(torch.stack(list(policy.decode(prefix, 4))), answer)
    for (keys, values), (keys_before, values_before) in zip(prefix.keys_values, before, strict=True):
        assert torch.equal(keys, keys_before) and torch.equal(values, values_before)
    cache = primed_cache(prefix.keys_values)
    cache.update(torch.ones_like(before[0][0]), torch.ones_like(before[0][1]), 0)
    assert torch.equal(prefix.keys_values[0][0], before[0][0])


@torch.no_grad()
def test_steps_in_one_cache_are_those_in_a_fresh_one_each(policy, prefix):
    state, noise = gaussian(2, 2), gaussian(2, HORIZON, 3)
    x = noise[:, None]
    for step in range(4):
        time = torch.full((2, 1), 1 - step / 4)
        x = x - policy.expert(primed_cache(prefix.keys_values), prefix.valid, state, x, time) / 4
    assert torch.equal(policy.denoise(prefix, state, noise, 4), x[:, 0])


def test_no_gradient_reaches_the_backbone_through_a_detached_prefix(policy, processor):
    words = policy.vlm.get_input_embeddings().weight
    inputs = pixels(1), *processor.prompt(["cube"])
    for detach in (False, True):
        policy.zero_grad()
        prefix = policy.encode(*inputs)
        loss = policy.flow_loss(
            prefix.detach() if detach else prefix,
            gaussian(1, 2),
            gaussian(1, HORIZON, 3),
            gaussian(1, 2, HORIZON, 3),
            torch.rand(1, 2),
        ).mean()
        loss.backward()
        assert policy.expert.velocity_out.weight.grad.abs().sum() > 0
        reached = 0.0 if words.grad is None else words.grad.abs().sum().item()
        assert (reached == 0) is detach
    policy.zero_grad()


def test_flow_loss_is_its_formula(policy, prefix, monkeypatch):
    def field(noisy, time):
        return 2 * noisy - 3 * time

    actions, noise = gaussian(2, HORIZON, 3), gaussian(2, 4, HORIZON, 3, seed=1)
    time = torch.rand(2, 4, generator=torch.Generator().manual_seed(2))
    loss = with_velocity(policy, field, monkeypatch).flow_loss(prefix, gaussian(2, 2), actions, noise, time)
    expected = np.empty(loss.shape)
    for b, m, h, a in np.ndindex(*loss.shape):
        action, eps, t = actions[b, h, a].item(), noise[b, m, h, a].item(), time[b, m].item()
        noisy = t * eps + (1 - t) * action
        expected[b, m, h, a] = ((2 * noisy - 3 * t) - (eps - action)) ** 2
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_flow_loss_where_actions_are_given_is_that_of_the_others(policy, prefix, monkeypatch):
    actions, noise = gaussian(2, HORIZON, 3), gaussian(2, 4, HORIZON, 3, seed=1)
    chunks, time = gaussian(2, 4, HORIZON, 3, seed=3), torch.rand(2, 4, generator=torch.Generator().manual_seed(2))
    delay = torch.tensor([[0, 1, 2, 1], [2, 0, 0, 1]])
    field = with_velocity(policy, lambda noisy, time: 2 * noisy - 3 * time[..., 0], monkeypatch)
    loss = field.flow_loss(prefix, gaussian(2, 2), actions, noise, time, Begun(delay, chunks))
    expected = np.zeros(loss.shape)
    for b, m, h, a in np.ndindex(*loss.shape):
        if h >= delay[b, m]:
            action, eps, t = chunks[b, m, h, a].item(), noise[b, m, h, a].item(), time[b, m].item()
            error = ((2 * (t * eps + (1 - t) * action) - 3 * t) - (eps - action)) ** 2
            expected[b, m, h, a] = error * HORIZON / (HORIZON - delay[b, m].item())
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_given_actions_are_seen_clean_at_time_0(policy, prefix, monkeypatch):
    seen = []
    actions, noise, time = gaussian(2, HORIZON, 3), gaussian(2, 1, HORIZON, 3, seed=1), torch.full((2, 1), 0.6)

    def field(noisy, time):
        seen.append((noisy, time[..., 0, 0]))
        return noisy

    begun = Begun(torch.tensor([[2], [0]]), gaussian(2, 1, HORIZON, 3, seed=2))
    with_velocity(policy, field, monkeypatch).flow_loss(prefix, gaussian(2, 2), actions, noise, time, begun)
    ((noisy, when),) = seen
    torch.testing.assert_close(when, torch.tensor([[[0.0, 0.0, 0.6]], [[0.6, 0.6, 0.6]]]))
    assert torch.equal(noisy[0, 0, :2], begun.chunks[0, 0, :2])
    torch.testing.assert_close(noisy[0, 0, 2], 0.6 * noise[0, 0, 2] + 0.4 * begun.chunks[0, 0, 2])


@torch.no_grad()
def test_one_time_for_all_actions_is_that_time_for_each(policy, prefix):
    state, noisy, time = gaussian(2, 2), gaussian(2, 2, HORIZON, 3), torch.rand(2, 2)
    for_each = time[..., None].expand(2, 2, HORIZON)
    together, apart = (
        policy.expert(primed_cache(prefix.keys_values), prefix.valid, state, noisy, each) for each in (time, for_each)
    )
    assert torch.equal(together, apart)


def test_the_true_velocity_has_no_loss_and_leads_from_noise_to_action(policy, prefix, monkeypatch):
    actions, noise = gaussian(2, HORIZON, 3), gaussian(2, HORIZON, 3, seed=1)
    exact = with_velocity(policy, lambda noisy, time: (noise - actions)[:, None].expand_as(noisy), monkeypatch)
    loss = exact.flow_loss(prefix, gaussian(2, 2), actions, noise[:, None], torch.rand(2, 1))
    assert loss.max() < 1e-10
    for steps in (1, 7):
        torch.testing.assert_close(exact.denoise(prefix, gaussian(2, 2), noise, steps), actions, **CLOSE)


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_denoising_is_euler(policy, prefix, steps, monkeypatch):
    """dx/dt = a x from t = 1 to 0 shrinks x by (1 - a / n) n times; dx/dt = t takes (n + 1) / (2 n) off."""
    noise = gaussian(2, HORIZON, 3)
    linear = with_velocity(policy, lambda noisy, time: 0.7 * noisy, monkeypatch)
    torch.testing.assert_close(linear.denoise(prefix, gaussian(2, 2), noise, steps), noise * (1 - 0.7 / steps) ** steps)
    clock = with_velocity(policy, lambda noisy, time: time.expand_as(noisy), monkeypatch)
    torch.testing.assert_close(clock.denoise(prefix, gaussian(2, 2), noise, steps), noise - (steps + 1) / (2 * steps))
    if steps == 10:  # this expert's own
        by_default = clock.denoise(prefix, gaussian(2, 2), noise)
        torch.testing.assert_close(by_default, noise - 11 / 20)


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_temperature_scales_the_noise_that_denoising_starts_from(policy, prefix, temperature, monkeypatch):
    state, noise = gaussian(2, 2), gaussian(2, HORIZON, 3)
    colder = policy.denoise(prefix, state, temperature * noise)
    assert (colder - policy.denoise(prefix, state, noise)).abs().max() > 1e-3
    monkeypatch.setattr(policy.expert, "config", replace(policy.expert.config, temperature=temperature))
    assert torch.equal(policy.denoise(prefix, state, noise), colder)


def test_times_are_beta_distributed():
    times = sample_time((100, 200), torch.Generator().manual_seed(0))
    assert times.shape == (100, 200)
    assert times.min() >= 0.001 and times.max() <= 1
    assert kstest(times.flatten().double().numpy(), beta(1.5, 1, loc=0.001, scale=0.999).cdf).pvalue > 0.01
    assert torch.equal(times, sample_time((100, 200), torch.Generator().manual_seed(0)))
    assert not torch.equal(times, sample_time((100, 200), torch.Generator().manual_seed(1)))
