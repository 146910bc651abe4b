"""The whole service put together, and its life in a process."""

from spawn.service.compose import Service

__all__ = ["Service"]
