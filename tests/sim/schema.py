"""The schema of an evaluation's file, for whichever test writes one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

import aegis_sim

SCHEMA = json.loads((Path(aegis_sim.__file__).parent / "assets/evaluation.schema.json").read_text())


def read_checked(path: Path) -> dict[str, Any]:
    """What the file says, after it was held against the schema."""
    data = json.loads(path.read_text())
    jsonschema.validate(data, SCHEMA, cls=jsonschema.Draft202012Validator)
    return data
