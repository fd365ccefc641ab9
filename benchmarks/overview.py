"""The picture in the README: `python benchmarks/overview.py EVAL.json... PNG`, of `aegis eval ... --videos 1`.

A row for the first filmed episode of each file: the instruction, pictures on the way, and what the policy answered to
what it was asked.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageSequence

FRAMES = 5
HEIGHT, GAP, TEXT_WIDTH = 168, 10, 480
INK, PALE, GOOD, BAD = (28, 30, 34), (110, 116, 124), (22, 128, 61), (185, 28, 28)


def main() -> None:
    *evaluations, output = map(Path, sys.argv[1:])
    rows = [row(first_filmed(evaluation), evaluation.parent) for evaluation in evaluations]
    sheet = Image.new("RGB", (rows[0].width, sum(image.height + GAP for image in rows) + GAP), "white")
    for index, image in enumerate(rows):
        sheet.paste(image, (0, GAP + index * (HEIGHT + GAP)))
    output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(output, optimize=True)


def first_filmed(evaluation: Path) -> dict:
    """The first episode that has a film."""
    return next(episode for episode in json.loads(evaluation.read_text())["per_episode"] if episode.get("video"))


def row(episode: dict, folder: Path) -> Image.Image:
    """One episode: FRAMES pictures from first to last, then words."""
    frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(Image.open(folder / episode["video"]))]
    chosen = [frames[round(i * (len(frames) - 1) / (FRAMES - 1))] for i in range(FRAMES)]
    width = round(HEIGHT * chosen[0].width / chosen[0].height)
    image = Image.new("RGB", (FRAMES * (width + GAP) + TEXT_WIDTH + GAP, HEIGHT), "white")
    for index, frame in enumerate(chosen):
        image.paste(frame.resize((width, HEIGHT), Image.Resampling.LANCZOS), (GAP + index * (width + GAP), 0))
    draw, x = ImageDraw.Draw(image), FRAMES * (width + GAP) + 2 * GAP
    outcome = f"done after {episode['steps'] / 10:.1f} s" if episode["success"] else str(episode["failure"])
    draw.text((x, 2), f"“{episode['instruction']}”", INK, font=ImageFont.load_default(20))
    draw.text((x, 30), outcome, GOOD if episode["success"] else BAD, font=ImageFont.load_default(14))
    for line, asked in enumerate(episode["asked"][:5]):
        y = 56 + line * 22
        draw.text((x, y), f"{asked['question']}?", PALE, font=ImageFont.load_default(14))
        start = x + draw.textlength(f"{asked['question']}?  ", font=ImageFont.load_default(14))
        answer = asked["answer"] if asked["right"] else f"{asked['answer']} (no: {asked['truth']})"
        draw.text((start, y), answer, GOOD if asked["right"] else BAD, font=ImageFont.load_default(14))
    return image


if __name__ == "__main__":
    main()
