"""Point the CMake files of the ROS 2 wheels at this Python: `python ros2_ws/relocate_wheels.py`, once after installing.

They name the include folders of the machine that built them, and interface packages fail to configure without them
("includes non-existent path /opt/python/...").
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import numpy


def main() -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    built_with = f"/opt/python/cp{version.replace('.', '')}-cp{version.replace('.', '')}"
    here = {
        f"{built_with}/lib/python{version}/site-packages/numpy/_core/include": numpy.get_include(),
        f"{built_with}/include/python{version}": sysconfig.get_path("include"),
    }
    for path in Path(sys.prefix, "share").rglob("*.cmake"):
        text = relocated = path.read_text()
        for there, folder in here.items():
            relocated = relocated.replace(there, folder)
        if relocated != text:
            path.write_text(relocated)


if __name__ == "__main__":
    main()
