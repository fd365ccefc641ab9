"""The commands of the simulation: `aegis record` and `aegis eval`. Light to import: what is heavy waits inside."""

from __future__ import annotations

from pathlib import Path


def record(
    task: str,
    episodes: int,
    output: Path,
    seed: int = 0,
    noise: float = 0.02,
    short_fraction: float = 0.0,
    workers: int = 1,
) -> None:
    """Record demonstrations of the scripted expert, or questions about random scenes, into one HDF5 file.

    The file depends on the task, the seed and the settings, not on the number of workers; it appears when it is whole.

    Args:
        task: "pick" or "pick-moved-camera" (demonstrations), "questions" or "drawn" (scenes with questions).
        episodes: how many successful demonstrations, or scenes, to record.
        output: the file to write; an existing one is replaced.
        seed: which episodes; recordings never meet evaluations, whatever the seeds.
        noise: standard deviation, in metres, of the disturbances the expert has to recover from; 0 for none.
        short_fraction: share of demonstrations that start on the way to the object, for more scenes per minute.
        workers: processes to record with.
    """
    from aegis_sim.tasks import QUESTION_TASKS

    if task in QUESTION_TASKS:
        from aegis_sim.question_sets import record_questions

        record_questions(task, episodes, output, seed=seed, workers=workers)
        return
    from aegis_sim.demonstrations import record_demonstrations

    record_demonstrations(
        task, episodes, output, seed=seed, noise=noise, short_fraction=short_fraction, workers=workers
    )
