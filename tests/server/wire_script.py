"""Reads what AEGIS packed as openpi's client does, and packs it again; run by test_wire.py elsewhere."""

import json
import sys
from pathlib import Path

import numpy as np
from openpi_client import msgpack_numpy

data = Path(sys.argv[1])
values = msgpack_numpy.unpackb(data.read_bytes())
data.write_bytes(msgpack_numpy.packb(values))
print(json.dumps([[each.dtype.str, each.shape, each.tolist()] for each in map(np.asarray, values)]))
