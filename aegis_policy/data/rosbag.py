"""One ROS 2 bag, sqlite3 or mcap, read by the library rosbags, whose errors come out as ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from aegis_policy.data.streams import clock

TYPES = get_typestore(Stores.ROS2_JAZZY)
"""Of the common messages, which are the same in every distribution; sqlite3 bags before Iron do not bring their own."""
REPAIR = "'ros2 bag reindex' or 'mcap recover' may repair what was not closed"


class Bag:
    """A recording, as a folder with its metadata.yaml or as a single .mcap or .db3 file.

    Attributes:
        topics: topic -> message type.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: it is not a whole bag.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such bag")
        with _Opened(path) as reader:
            self.topics = {connection.topic: connection.msgtype for connection in reader.connections}

    def messages(self, topics: Sequence[str]) -> Iterator[tuple[str, int, Any]]:
        """Topic, time of receipt (ns) and message, in the order of receipt.

        Raises:
            ValueError: damaged, or fewer messages than were recorded; says where.
        """
        read: Counter[str] = Counter()
        with _Opened(self.path) as reader:
            connections = [connection for connection in reader.connections if connection.topic in topics]
            raw = reader.messages(connections)
            last = "before its first message"
            while True:
                try:
                    connection, received, data = next(raw)
                    last = f"{connection.topic}, received at {clock(received)}"
                    message = TYPES.deserialize_cdr(data, connection.msgtype)
                except StopIteration:
                    break
                except Exception as error:  # damage surfaces as whatever the storage's own libraries raise
                    raise ValueError(f"{self.path}: damaged after or at {last}: {_said(error)}; {REPAIR}") from error
                read[connection.topic] += 1
                yield connection.topic, received, message
            for topic in topics:
                promised = sum(connection.msgcount for connection in connections if connection.topic == topic)
                if read[topic] < promised:
                    raise ValueError(
                        f"{self.path}: {topic}: {read[topic]} messages, but {promised} were recorded; {REPAIR}"
                    )


class _Opened:
    """A reader that is open inside `with`."""

    def __init__(self, path: Path) -> None:
        try:
            self._reader = Reader(path)
            self._reader.open()
        except Exception as error:  # as above
            raise ValueError(f"{path}: not a whole ROS 2 bag: {_said(error)}; {REPAIR}") from error

    def __enter__(self) -> Reader:
        return self._reader

    def __exit__(self, *_: object) -> None:
        self._reader.close()


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(".")
