"""setuptools' build backend, which asks for mypyc only when Spawn is to be compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import compiled
from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 (the hooks of PEP 517 and 660)


def get_requires_for_build_wheel(config_settings: Mapping[str, Any] | None = None) -> list[str]:
    needed: list[str] = build_meta.get_requires_for_build_wheel(config_settings)
    return [*needed, *compiled.REQUIREMENTS] if compiled.asked_for() else needed
