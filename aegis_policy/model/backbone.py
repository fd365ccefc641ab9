"""The backbone: a PaliGemma that reads images and a prompt once, and answers from what it has read.

The prefix's keys and values serve every token of an answer here, and every Euler step of the expert in `policy`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import Cache, PaliGemmaConfig, PaliGemmaForConditionalGeneration

from aegis_policy.model.expert import KeysValues, primed_cache, roomy_cache
from aegis_policy.model.masks import additive, positions, prefix_mask

if TYPE_CHECKING:
    from aegis_policy.data.packing import Packed


@dataclass(frozen=True)
class Prefix:
    """What the backbone has read.

    Attributes:
        keys_values: per layer, keys and values [B, heads, P, head_dim].
        valid: [B, P] bool, tokens that are not padding.
        hidden: [B, P, W] last hidden states.
    """

    keys_values: KeysValues
    valid: Tensor
    hidden: Tensor

    def detach(self) -> Prefix:
        """The same prefix, cut from the graph: no gradient reaches the backbone through it (arXiv 2505.23705)."""
        return Prefix([(k.detach(), v.detach()) for k, v in self.keys_values], self.valid, self.hidden.detach())


def new_vlm(config: PaliGemmaConfig) -> PaliGemmaForConditionalGeneration:
    """A PaliGemma with fresh weights."""
    return PaliGemmaForConditionalGeneration._from_config(config, attn_implementation="eager")


class Backbone(nn.Module):
    """PaliGemma (SigLIP vision tower, Gemma 2 language model) as transformers has it, unpatched.

    Args:
        vlm: the model, of any size, with eager attention (Gemma 2's softcap has no other on a CPU).
    """

    def __init__(self, vlm: PaliGemmaForConditionalGeneration):
        super().__init__()
        self.vlm = vlm

    @property
    def language_model(self) -> nn.Module:
        return self.vlm.model.language_model

    @property
    def image_tokens(self) -> int:
        """How many tokens one image becomes."""
        vision = self.vlm.config.vision_config
        return (vision.image_size // vision.patch_size) ** 2

    @property
    def eos(self) -> int:
        """The token that ends an answer: the tokenizer's <eos>, the first where there are two, as in PaliGemma 2."""
        named: int | list[int] = self.vlm.config.text_config.eos_token_id
        return named if isinstance(named, int) else named[0]

    def see(self, images: Tensor) -> Tensor:
        """[B, K, 3, S, S] images in [-1, 1] -> their features [B, K*N, W], one image after the other."""
        features = self.vlm.get_image_features(images.flatten(0, 1)).pooler_output  # (B*K, N, W)
        return features.unflatten(0, images.shape[:2]).flatten(1, 2)

    def embed(self, images: Tensor, ids: Tensor) -> Tensor:
        """[B, K, 3, S, S] images in [-1, 1] and [B, T] token ids -> [B, K*N + T, W], images first."""
        return self._join(self.see(images), ids)

    def _join(self, seen: Tensor, ids: Tensor) -> Tensor:
        words = self.vlm.get_input_embeddings()(ids)
        return torch.cat([seen.to(words.dtype), words], dim=1)

    def encode(self, images: Tensor, ids: Tensor, valid: Tensor) -> Prefix:
        """Read K images and a prompt.

        Args:
            images: [B, K, 3, S, S] in [-1, 1].
            ids: [B, T] prompt tokens, right-padded.
            valid: [B, T] bool, prompt tokens that are not padding.
        """
        return self.encode_seen(self.see(images), ids, valid)

    def encode_seen(self, seen: Tensor, ids: Tensor, valid: Tensor) -> Prefix:
        """`encode`, after `see`."""
        embeds = self._join(seen, ids)
        valid = torch.cat([valid.new_ones(seen.shape[:2]), valid], dim=1)  # (B, P)
        cache = primed_cache([])
        hidden = self.read(embeds, prefix_mask(valid), positions(valid), cache)
        return Prefix([(layer.keys, layer.values) for layer in cache.layers], valid, hidden)

    def read(self, embeds: Tensor, allowed: Tensor, place: Tensor, cache: Cache | None = None) -> Tensor:
        """The language model over ready embeddings: [B, Q, W], bool [B, Q, K], positions [B, Q] -> [B, Q, W]."""
        return self.language_model(
            inputs_embeds=embeds,
            attention_mask=additive(allowed, embeds.dtype),
            position_ids=place,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., W] -> [..., vocabulary], softcapped as Gemma 2 does."""
        cap = self.vlm.config.text_config.final_logit_softcapping
        logits = self.vlm.lm_head(hidden).float()
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def answer_logits(self, images: Tensor, packed: Packed) -> Tensor:
        """Logits [B, T, vocabulary] of packed text after images [B, K, 3, S, S]."""
        hidden = self.read(self.embed(images, packed.ids), packed.allowed, packed.place)
        return self.logits(hidden[:, -packed.ids.shape[1] :])

    def first_token(self, prefix: Prefix) -> Tensor:
        """[B], the likeliest first token of an answer."""
        place = torch.arange(prefix.valid.shape[1], device=prefix.valid.device)
        last = (place * prefix.valid).argmax(dim=1)[:, None, None]
        hidden = prefix.hidden.gather(1, last.expand(-1, 1, prefix.hidden.shape[2]))[:, 0]
        return self.logits(hidden).argmax(dim=-1)

    def next_token(self, token: Tensor, place: Tensor, valid: Tensor, cache: Cache) -> Tensor:
        """[B] tokens at positions [B], which see the `valid` [B, K] of K keys -> [B], the likeliest to follow."""
        embeds = self.vlm.get_input_embeddings()(token[:, None])
        return self.logits(self.read(embeds, valid[:, None], place[:, None], cache)[:, 0]).argmax(dim=-1)

    @torch.no_grad()
    def decode(self, prefix: Prefix, max_new_tokens: int) -> Iterator[Tensor]:
        """Greedy answer tokens, one [B] tensor at a time, until every row has ended (ended rows repeat <eos>)."""
        eos = self.eos
        room = max_new_tokens - 1  # nothing follows the last
        cache = roomy_cache(prefix.keys_values, room, grows=True)
        (rows, read), place = prefix.valid.shape, prefix.valid.sum(dim=1)
        valid = torch.cat([prefix.valid, prefix.valid.new_ones(rows, room)], dim=1)
        token = self.first_token(prefix)
        ended = torch.zeros_like(place, dtype=torch.bool)
        for made in range(1, max_new_tokens + 1):
            token = token.masked_fill(ended, eos)
            ended = ended | (token == eos)
            yield token
            if made == max_new_tokens or ended.all():
                return
            place = place + 1
            token = self.next_token(token, place, valid[:, : read + made], cache)
