"""The commands of the simulation: `aegis record`, `eval` and `compare`. Light to import: what is heavy waits inside."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro


def record(
    task: str,
    episodes: int,
    output: Path,
    split: str = "seen",
    seed: int = 0,
    noise: float = 0.03,
    short_fraction: float = 0.0,
    takeover: str | None = None,
    workers: int = 1,
    device: Literal["keyboard", "spacemouse"] | None = None,
) -> None:
    """Record demonstrations, by the scripted expert or by hand, or questions about random scenes, into one HDF5 file.

    The expert's file depends on the task, the seed and the settings, not on the number of workers; it appears when it
    is whole. By hand (--device) a window opens, and what has been recorded by then is kept when you stop.

    Args:
        task: demonstrations on the tabletop ("pick", "place-on", "place-beside") or of robosuite's own tasks ("lift",
            "stack", "can", "nut", "door"), or scenes with questions ("questions", "drawn").
        episodes: how many successful demonstrations, or scenes, to record.
        output: the file to write; an existing one is replaced, but never by a recording by hand.
        split: of demonstrations on the tabletop: "seen", or "moved-camera", "unseen-pairs", "unseen-wordings",
            "distractors".
        seed: which episodes; recordings never meet evaluations, whatever the seeds.
        noise: standard deviation, in metres, of the disturbances the expert has to recover from; 0 for none, as by
            hand.
        short_fraction: share of demonstrations that start on the way to the object, for more scenes per minute; on
            the tabletop only.
        takeover: a policy (folder or URL) that drives the other demonstrations until a random moment, from which on the
            expert is recorded: the policy learns to get out of where it gets to; on the tabletop only.
        workers: processes to record with.
        device: what to record by hand with, "keyboard" or "spacemouse"; needs a screen and the extra "teleop". The
            scripted expert records if left out.
    """
    from aegis_sim.demonstrations import Recording, record_demonstrations
    from aegis_sim.files import check_writable
    from aegis_sim.tasks import QUESTION_TASKS

    check_writable(output)
    if device is not None:
        from aegis_sim.by_hand import record_by_hand

        if workers != 1:
            raise ValueError(f"a person is one worker, not {workers}: leave --workers out with --device")
        mine = Recording(task, split, seed, short_fraction=short_fraction, takeover=takeover, device=device)
        record_by_hand(mine, episodes, output)
        return
    if task in QUESTION_TASKS:
        from aegis_sim.question_sets import record_questions

        if (split, short_fraction, takeover) != ("seen", 0.0, None):
            raise ValueError(f"--split, --short-fraction and --takeover are of demonstrations, and '{task}' has none")
        record_questions(task, episodes, output, seed=seed, workers=workers)
        return
    record_demonstrations(
        Recording(task, split, seed, noise, short_fraction, takeover), episodes, output, workers=workers
    )


def evaluate(
    checkpoint: str | None = None,
    task: str = "pick",
    episodes: int = 50,
    split: str = "seen",
    seed: int = 0,
    replan_every: int = 4,
    batch: int = 1,
    until_width: float | None = None,
    workers: int = 1,
    ray: str | None = None,
    json: Path | None = None,
    report: Path | None = None,
    videos: int | None = None,
    rerun: Path | None = None,
    card: bool = False,
) -> None:
    """Measure a policy closed loop: how often it succeeds, takes the right object and answers what it is asked.

    Prints the rates with their 95% Wilson intervals. The same arguments give the same numbers, for any --workers, with
    or without --ray. "questions" and "drawn" are scenes with nothing to move: only answers are measured, beside what
    answering blindly would get.

    Args:
        checkpoint: folder or URL of a running server; the policy that ships with this package if left out.
        task: "pick", "place-on", "place-beside" (the tabletop), "lift", "stack", "can", "nut", "door" (robosuite's
            own), "questions" or "drawn".
        episodes: how many unseen episodes (or scenes).
        split: how episodes differ from the demonstrations: "seen" (only in their seeds) or, on the tabletop,
            "unseen-pairs", "unseen-wordings", "moved-camera" or "distractors".
        seed: which ones; evaluations never meet recordings, whatever the seeds.
        replan_every: how many actions of each chunk are carried out before the policy is asked again.
        batch: episodes a worker runs in lock-step, with one call of the policy for all; pays on a GPU. Another batch
            changes the numbers a little.
        until_width: stop as soon as the success rate's interval is narrower than this, for example 0.2; --episodes is
            then the most.
        workers: processes to evaluate with, each with a policy of its own.
        ray: address of a Ray cluster to have the workers on ("auto", HOST:PORT, "local"); needs the extra "ray".
        json: file for the rates, the settings and what happened in every episode.
        report: HTML file with films of the episodes; its figures go into --json, or NAME.json beside it.
        videos: how many episodes to film, from the first; 12 for a report, else none.
        rerun: file (.rrd) for the Rerun viewer with every instant of every episode, about 1 MB each; needs the extra
            "rerun".
        card: put the rates on the checkpoint's model card, beside those of before its training where there are any.
    """
    import shlex
    import sys
    from contextlib import nullcontext
    from functools import partial

    from aegis_policy.inference.load import load_policy, own_folder, pinned
    from aegis_sim.card import add_to_card
    from aegis_sim.evaluate import evaluate as run
    from aegis_sim.files import check_writable
    from aegis_sim.report import text_table, write_report
    from aegis_sim.rerun_file import rerun_file
    from aegis_sim.tasks import QUESTION_TASKS

    checkpoint = pinned(checkpoint)  # each worker loads it, and training may go on meanwhile
    folder = own_folder(checkpoint) if card else None
    if videos and not (json or report):
        raise ValueError("--videos: films go into a file or a report; name one with --json or --report")
    if videos is None:
        videos = 12 if report and task not in QUESTION_TASKS else 0
    if report and json is None:
        json = report.with_suffix(".json")
    files = {"--json": json, "--report": report, "--rerun": rerun}
    named = {option: file.resolve() for option, file in files.items() if file}
    if len(set(named.values())) < len(named):
        raise ValueError(
            f"{', '.join(f'{option} {file}' for option, file in named.items())}: each needs a file of its own"
            + " (figures of a report go into NAME.json beside it)" * bool(report)
        )
    for file in named.values():
        check_writable(file)
    with rerun_file(rerun) if rerun else nullcontext() as record:
        evaluation = run(
            partial(load_policy, checkpoint),
            task,
            episodes,
            seed,
            split=split,
            replan_every=replan_every,
            batch=batch,
            until_width=until_width,
            videos=videos,
            workers=workers,
            ray=ray,
            record=record,
        )
    command = shlex.join(["aegis", *sys.argv[1:]])
    print(text_table({evaluation.policy.model: evaluation.to_dict()}, families=True))
    if json:
        evaluation.save(json, command)
    if folder:
        add_to_card(folder, evaluation)
    if report and json:
        write_report(report, f"{evaluation.policy.model}: {task}", {"measured": json}, commands=[command])


def compare(first: tyro.conf.Positional[Path], second: tyro.conf.Positional[Path]) -> None:
    """Compare two policies on the episodes both ran: in how many only one succeeded, and how likely that is by chance.

    Args:
        first: JSON file of `aegis eval`.
        second: another one, of the same task, split, seed and episodes.
    """
    from aegis_sim.compare import compare_files

    print(compare_files(first, second))
