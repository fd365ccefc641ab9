"""The action expert: a velocity field over action chunks, conditioned on what the backbone has read.

It is a Gemma 2 stack with its own weights whose cache is primed with the backbone's keys and values: at every layer the
state and the noisy actions attend jointly to the prefix and to themselves, as in pi0 (arXiv 2410.24164).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, DynamicCache, Gemma2Config, Gemma2Model
from transformers.cache_utils import DynamicLayer

from aegis_policy.model.config import ExpertConfig
from aegis_policy.model.masks import additive, suffix_mask

KeysValues = list[tuple[Tensor, Tensor]]
"""Per layer: keys and values, each [B, key/value heads, P, head_dim], keys already rotated."""


def primed_cache(keys_values: KeysValues) -> DynamicCache:
    """A fresh cache that holds `keys_values`; what is appended to it later leaves them as they are."""
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(keys_values):
        cache.update(keys, values, layer)
    return cache


def roomy_cache(keys_values: KeysValues, room: int, *, grows: bool = False) -> Cache:
    """A cache of `keys_values` with room for `room` tokens behind them, made once: each pass copies its own alone.

    For passes without gradients, one after another, where `primed_cache` would copy all of it in each.

    Args:
        grows: each pass comes behind the one before it, as words of an answer do; otherwise it takes its place, as
            Euler steps do.
    """
    return Cache(layers=[_RoomyLayer(keys, values, room, grows) for keys, values in keys_values])


class _RoomyLayer(DynamicLayer):
    def __init__(self, keys: Tensor, values: Tensor, room: int, grows: bool):
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = (
            torch.cat([read, read.new_empty(*read.shape[:2], room, read.shape[3])], dim=2) for read in (keys, values)
        )
        self.begin, self.grows = keys.shape[2], grows

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **more: object) -> tuple[Tensor, Tensor]:
        end = self.begin + key_states.shape[2]
        self.keys[:, :, self.begin : end] = key_states
        self.values[:, :, self.begin : end] = value_states
        self.begin = end if self.grows else self.begin
        return self.keys[:, :, :end], self.values[:, :, :end]


def time_embedding(time: Tensor, width: int) -> Tensor:
    """[...] times in [0, 1] -> [..., width]: sines and cosines of periods 4e-3 to 4 (openpi)."""
    half = width // 2
    periods = 4e-3 * (4.0 / 4e-3) ** torch.linspace(0, 1, half, device=time.device, dtype=torch.float32)
    angle = time.float()[..., None] * (2 * math.pi / periods)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class ActionExpert(nn.Module):
    """v(x_t, t | prefix, state): [B, M, H, A] noisy chunks -> [B, M, H, A] velocities.

    Args:
        config: the expert's own sizes.
        backbone: the language model's configuration; depth, heads, head size, rotary base and softcap are shared.
    """

    def __init__(self, config: ExpertConfig, backbone: Gemma2Config):
        super().__init__()
        self.config = config
        shared = backbone.to_dict() | {
            "hidden_size": config.width,
            "intermediate_size": config.mlp,
            "vocab_size": 1,
            "pad_token_id": None,
            "bos_token_id": None,
            "eos_token_id": None,
        }
        self.decoder = Gemma2Model(Gemma2Config(**shared))
        self.decoder.embed_tokens = None  # it never reads words
        for layer in self.decoder.layers:  # a quiet start: residual branches at 0.3 of their norm
            nn.init.constant_(layer.post_attention_layernorm.weight, -0.7)
            nn.init.constant_(layer.post_feedforward_layernorm.weight, -0.7)
        width = config.width
        self.state_in = nn.Linear(config.state_dim, width)
        self.action_in = nn.Linear(config.action_dim, width)
        self.time_in = nn.Linear(2 * width, width)
        self.time_out = nn.Linear(width, width)
        self.velocity_out = nn.Linear(width, config.action_dim)

    def forward(self, cache: Cache, valid: Tensor, state: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        """Velocity of the flow.

        Args:
            cache: of the prefix, which the suffix is added to.
            valid: [B, P] bool, prefix tokens that are not padding.
            state: [B, S], normalised.
            noisy: [B, M, H, A], M noisy chunks that share the prefix.
            time: [B, M], or [B, M, H] where each action has its own; 1 is noise, 0 is action.
        """
        _, m, h, _ = noisy.shape
        actions = self.action_in(noisy)  # (B, M, H, W)
        time = time if time.dim() == 3 else time[:, :, None]
        when = time_embedding(time, self.config.width).to(actions.dtype).expand_as(actions)
        actions = self.time_out(F.silu(self.time_in(torch.cat([actions, when], dim=-1))))
        states = self.state_in(state).to(actions.dtype)[:, None, None].expand(-1, m, -1, -1)
        suffix = torch.cat([states, actions], dim=2).flatten(1, 2)  # (B, M(1+H), W)
        place = torch.arange(1, h + 2, device=valid.device).repeat(m)
        hidden = self.decoder(
            inputs_embeds=suffix,
            attention_mask=additive(suffix_mask(valid, m, h), suffix.dtype),
            position_ids=valid.sum(dim=1, keepdim=True) + place,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return self.velocity_out(hidden.unflatten(1, (m, 1 + h))[:, :, 1:]).float()
