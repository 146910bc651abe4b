"""A mypy plugin: what a check has said of an attribute is forgotten at the next call, which may have changed it.

mypy keeps it (``if self.x is None: ... self.f() ... self.x``), which is convenient and sometimes wrong. In Python the
worst that comes of it is a comparison that mypy thinks vain; mypyc compiles what mypy believes, so there it is a
TypeError at run time, or a branch that is left out. With this plugin such code does not pass the type check, and so is
not compiled: take the attribute into a local, or check it again.

Not seen: calls of what has no type (Any), and what operators, iteration, properties and other threads change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from compiled import MODULES
from mypy.options import Options
from mypy.plugin import FunctionContext, MethodContext, Plugin, ReportConfigContext
from mypy.plugins.default import DefaultPlugin
from mypy.types import Type

Context = TypeVar("Context", FunctionContext, MethodContext)

# They call nothing that could change an attribute of somebody else.
HARMLESS = (
    "builtins.len", "builtins.isinstance", "builtins.min", "builtins.max", "builtins.int", "builtins.str.",
    "builtins.bytes", "builtins.bytearray", "builtins.memoryview", "builtins.list.", "builtins.dict.",
    "builtins.set.", "builtins.tuple.", "builtins.int.", "builtins.float.", "collections.deque", "time.",
)  # fmt: skip


class ForgetfulNarrowing(Plugin):
    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._default = DefaultPlugin(options)  # is not asked where another plugin has an answer

    def get_function_hook(self, fullname: str) -> Callable[[FunctionContext], Type] | None:
        return _forgetting(fullname, self._default.get_function_hook(fullname))

    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        return _forgetting(fullname, self._default.get_method_hook(fullname))

    def report_config_data(self, ctx: ReportConfigContext) -> Any:
        """What a module was checked with, for mypy's cache."""
        return ctx.id in MODULES


def _forgetting(fullname: str, usual: Callable[[Context], Type] | None) -> Callable[[Context], Type] | None:
    """A hook that forgets what is known of attributes, and else does what the ``usual`` one does."""
    if fullname.startswith(HARMLESS):
        return usual

    def forget(context: Context) -> Type:
        _forget(context.api)
        return context.default_return_type if usual is None else usual(context)

    return forget


def _forget(checker: Any) -> None:
    if checker.tree.fullname not in MODULES:
        return
    binder = checker.binder  # is not in the plugins' interface
    for key in {key for frame in binder.frames for key in frame.types}:
        if _is_shared(key):
            declared = binder.declarations.get(key)
            if declared is None:
                binder._cleanse_key(key)
            else:
                binder._put(key, declared, False)
    for frame in binder.try_frames:
        binder.allow_jump(frame)


def _is_shared(key: tuple[Any, ...]) -> bool:
    """Whether others can change what it names: an attribute, an item, a variable of a module."""
    return key[0] in ("Member", "Index") or (key[0] == "Var" and "." in key[1].fullname)


def plugin(version: str) -> type[Plugin]:
    return ForgetfulNarrowing
