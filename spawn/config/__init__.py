"""The configuration: its schema, how it is read and checked."""

from spawn.config.load import load
from spawn.config.schema import Config

__all__ = ["Config", "load"]
