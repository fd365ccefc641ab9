"""A LeRobot v2.1 folder as such folders are published, written by hand: jsonl meta, a parquet file and videos each."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SIZE, FPS = 32, 30
TASKS = ("Put the red cube in the box.", "Open the drawer.")
JOINTS = ["shoulder", "elbow", "gripper"]


def write_v21(root: Path, lengths: tuple[int, ...] = (9, 12, 7), images: bool = False) -> Path:
    """Smooth pictures from two cameras (the second as PNG inside parquet if `images`), three joints, no units."""
    rng = np.random.default_rng(0)
    start = 0
    for episode, steps in enumerate(lengths):
        front, wrist = pictures(episode, steps), pictures(episode + 50, steps)
        columns = {
            "observation.state": pa.array(list(rng.normal(size=(steps, 3)).astype(np.float32))),
            "action": pa.array(list(rng.normal(size=(steps, 3)).astype(np.float32))),
            "timestamp": pa.array((np.arange(steps) / FPS).astype(np.float32)),
            "frame_index": pa.array(np.arange(steps)),
            "episode_index": pa.array(np.full(steps, episode)),
            "index": pa.array(np.arange(start, start + steps)),
            "task_index": pa.array(np.full(steps, episode % 2)),
        }
        if images:
            cells = [{"bytes": png(image), "path": f"frame_{i:06d}.png"} for i, image in enumerate(wrist)]
            columns["observation.images.wrist"] = pa.array(cells)
        path = root / f"data/chunk-000/episode_{episode:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
        for name, shown in {"front": front, **({} if images else {"wrist": wrist})}.items():
            write_video(root / f"videos/chunk-000/observation.images.{name}/episode_{episode:06d}.mp4", shown)
        start += steps
    write_meta(root, lengths, images)
    return root


def write_meta(root: Path, lengths: tuple[int, ...], images: bool) -> None:
    vector = {"dtype": "float32", "shape": [3], "names": {"motors": JOINTS}}
    camera = {"shape": [SIZE, SIZE, 3], "names": ["height", "width", "channel"]}
    video = {**camera, "dtype": "video", "info": {"video.fps": float(FPS), "video.is_depth_map": False}}
    counter = {"dtype": "int64", "shape": [1], "names": None}
    info = {
        **{"codebase_version": "v2.1", "robot_type": "so100", "fps": FPS, "splits": {"train": f"0:{len(lengths)}"}},
        **{"total_episodes": len(lengths), "total_frames": sum(lengths), "total_tasks": 2, "total_chunks": 1},
        **{"total_videos": len(lengths) * (2 - images), "chunks_size": 1000},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {
            **{"observation.state": vector, "action": vector, "observation.images.front": video},
            "observation.images.wrist": {**camera, "dtype": "image"} if images else video,
            **{"timestamp": {**counter, "dtype": "float32"}},
            **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), counter),
        },
    }
    meta = root / "meta"
    meta.mkdir()
    (meta / "info.json").write_text(json.dumps(info, indent=4))
    tasks = [{"task_index": i, "task": task} for i, task in enumerate(TASKS)]
    episodes = [{"episode_index": i, "tasks": [TASKS[i % 2]], "length": steps} for i, steps in enumerate(lengths)]
    for name, rows in (("tasks", tasks), ("episodes", episodes)):
        (meta / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def pictures(seed: int, steps: int) -> np.ndarray:
    """uint8 [steps, SIZE, SIZE, 3]: a gradient that moves, another one for each seed."""
    y, x = np.mgrid[:SIZE, :SIZE]
    shades = [np.stack([4 * x + 5 * i, 4 * y + 9 * seed, np.full_like(x, 8 * i)], axis=2) for i in range(steps)]
    return (np.stack(shades) % 256).clip(20, 230).astype(np.uint8)


def png(image: np.ndarray) -> bytes:
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_video(path: Path, images: np.ndarray) -> None:
    """AV1 with one colour for four pixels, what LeRobot records with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libsvtav1", FPS, options={"crf": "20", "g": "2", "preset": "12"})
        stream.height, stream.width, stream.pix_fmt = *images.shape[1:3], "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
