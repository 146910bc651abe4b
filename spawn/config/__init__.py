"""The configuration: its schema, how it is read and checked."""

from spawn.config.load import FLAGS, LoadedConfig, default_state_dir, load
from spawn.config.reload import Reload, changes
from spawn.config.schema import Config

__all__ = ["FLAGS", "Config", "LoadedConfig", "Reload", "changes", "default_state_dir", "load"]
