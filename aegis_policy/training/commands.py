"""The commands that train: `aegis pretrain`, `aegis anchor` and `aegis train`."""

from __future__ import annotations
