"""The wall of a report: the films of the episodes with what was asked, by what came of them, failures first.

No script: the groups are `<details>`, which any browser folds, and links at the top lead to each of them.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Collection, Mapping
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

Loaded = Mapping[str, Mapping[str, Any]]
Takes = Mapping[str, dict[str, Any]]
"""One seed's episode in each evaluation that ran it: label -> its entry of "per_episode"."""

MAX_FILM_BYTES = 10_000_000  # base64 adds a third; with the rest the page stays below 15 MB
SUCCESS = "success"


def wall(loaded: Loaded, folders: Mapping[str, Path]) -> str:
    """One card a seed, with a film and the questions of each evaluation that filmed it.

    Args:
        loaded: label -> what `aegis eval` wrote; the outcome in the last one that filmed it says where a seed stands.
        folders: label -> where the films' paths start.
    """
    filmed, seeds = _filmed(loaded)
    films = _films(filmed, folders)
    if not films:
        return ""
    groups: dict[str, list[str]] = defaultdict(list)
    for number, takes in filmed.items():
        if number in films:
            groups[_outcome(list(takes.values())[-1])].append(_episode(number, takes, films[number]))
    kinds = sorted(groups, key=lambda kind: (kind == SUCCESS, -len(groups[kind]), kind))
    single = " single" if len(loaded) == 1 else ""
    links, sections = [], []
    for index, kind in enumerate(kinds):
        chip = f'<span class="chip {_colour(kind)}">{escape(kind)}</span> {len(groups[kind])}'
        links.append(f'<a href="#outcome-{index}">{chip}</a>')
        sections.append(
            f'<details open id="outcome-{index}"><summary>{chip}</summary>'
            f'<div class="wall{single}">{"".join(groups[kind])}</div></details>'
        )
    left_out = _left_out(loaded, [filmed[number] for number in films], seeds)
    of = f", {escape(list(loaded)[-1])}" if len(loaded) > 1 else ""
    return (
        "<h2>Episodes</h2>"
        '<p class="soft">At real speed. Large: a view for people; small: the images the policy gets. The answers are '
        f"checked against the simulator at the instant of the question. {left_out}</p>"
        f'<nav aria-label="Episodes by outcome"><span class="soft">By outcome{of}:</span> {" ".join(links)}</nav>'
        f"{''.join(sections)}"
    )


def _filmed(loaded: Loaded) -> tuple[dict[int, Takes], int]:
    """Number of an episode, from 1 -> its filmed takes; and how many episodes there are."""
    seeds: dict[int, dict[str, dict[str, Any]]] = {}
    for label, data in loaded.items():
        for episode in data["per_episode"]:
            seeds.setdefault(episode["seed"], {})[label] = episode
    takes = [{label: one for label, one in runs.items() if one.get("video")} for runs in seeds.values()]
    return {number: one for number, one in enumerate(takes, start=1) if one}, len(seeds)


def _films(filmed: Mapping[int, Takes], folders: Mapping[str, Path]) -> dict[int, dict[str, str]]:
    """Number -> label -> film as a data URI, as many episodes as fit, whole: those with a failure, then the others."""
    films: dict[int, dict[str, str]] = {}
    room = MAX_FILM_BYTES
    for number in sorted(filmed, key=lambda number: (all(one["success"] for one in filmed[number].values()), number)):
        found = {label: (folders[label] / one["video"]).read_bytes() for label, one in filmed[number].items()}
        room -= sum(map(len, found.values()))
        if room < 0:
            break
        films[number] = {
            label: f"data:image/webp;base64,{base64.b64encode(film).decode()}" for label, film in found.items()
        }
    return films


def _left_out(loaded: Loaded, takes: Collection[Takes], seeds: int) -> str:
    """What is not on the wall, where something is not."""
    if len(takes) == seeds:
        return ""
    label, data = list(loaded.items())[-1]
    failed = sum(not one["success"] for one in data["per_episode"])
    shown = sum(label in runs and not runs[label]["success"] for runs in takes)
    return f"{len(takes)} of {seeds} episodes are here, with {shown} of {failed} failures."


def _episode(number: int, takes: Takes, films: Mapping[str, str]) -> str:
    first = next(iter(takes.values()))
    parts = []
    for label, episode in takes.items():
        outcome = _outcome(episode)
        parts.append(
            f'<div class="take"><header><span>{escape(label)}</span>'
            f'<span class="chip {_colour(outcome)}">{escape(outcome)}</span></header>'
            f'<img alt="film of the episode" loading="lazy" src="{films[label]}">'
            f"{_asked(episode)}</div>"
        )
    return (
        f'<article class="episode card"><h3>{escape(first["instruction"])}'
        f'<span class="soft small" title="seed {first["seed"]}">episode {number}</span></h3>'
        f'<div class="takes">{"".join(parts)}</div></article>'
    )


def _outcome(episode: Mapping[str, Any]) -> str:
    return SUCCESS if episode["success"] else str(episode["failure"])


def _colour(outcome: str) -> str:
    return "good" if outcome == SUCCESS else "bad"


def _asked(episode: Mapping[str, Any]) -> str:
    instants = {0: "at the start", episode["steps"]: "at the end"}
    items = []
    for step, group in groupby(episode["asked"], key=lambda one: one["step"]):
        items.append(f'<li class="instant">{instants.get(step, "on the way")}, step {step}</li>')
        for one in group:
            correction = "" if one["right"] else f' <span class="soft">(truth: {escape(one["truth"])})</span>'
            mark, kind = ("✓", "yes") if one["right"] else ("✗", "no")
            items.append(
                f'<li><span class="{kind}">{mark}</span><span>{escape(one["question"])}? '
                f"<b>{escape(one['answer']) or '(nothing)'}</b>{correction}</span></li>"
            )
    return f'<ul class="asked">{"".join(items)}</ul>'
