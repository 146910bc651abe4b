"""``spawnctl``: reads the command line and hands over to who does the work.

Whatever a user can do wrong ends in lines on standard error and an exit code: 2 for a bad command line or
configuration, 1 for what cannot be done or started. Whether these lines can be written changes neither (``output``);
only what was asked for as text (help, version, completion, man page) ends with 1 when it cannot be. Nothing here
imports gevent: ``start`` forks.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout

import spawn
from spawn import log as spawn_log
from spawn.config import load
from spawn.errors import ConfigError, StartError
from spawnctl import completion, control, foreground, installed, manual, output, places, rehearsal, usage
from spawnctl.foreground import Plan
from spawnctl.machine import ControlError, Machine
from spawnctl.output import say
from spawnctl.text import USAGE
from spawnctl.usage import CommandLine, UsageError

log = logging.getLogger("spawn.service")

VERSION = f"Spawn Sync Service {spawn.__version__} {spawn.__date__}"
CANCELLED = 130  # what a shell shows for a command that Ctrl-C ended
PRINTED: dict[str, Callable[[CommandLine], str]] = {
    "completion": lambda line: completion.script(line.shell),
    "manual": lambda line: manual.page(spawn.__version__, spawn.__date__),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the return value is its exit code."""
    output.prepare()
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    finally:
        output.finish()


def _run(argv: Sequence[str]) -> int:
    try:
        return _dispatch(_parse(argv))
    except UsageError as error:
        return _complain([f"spawnctl: {error}", USAGE], 2)
    except ConfigError as error:
        return _complain(error.faults, 2)
    except StartError as error:
        if spawn_log.is_elsewhere():
            log.critical("the service did not start: %s", error)
        return _complain([str(error)], 1)
    except KeyboardInterrupt:
        return CANCELLED
    except BrokenPipeError:
        return 1


def _parse(argv: Sequence[str]) -> CommandLine:
    """Help and version are printed by docopt, which does not expect that this can fail."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            return usage.parse(argv, VERSION)
    except SystemExit:
        if not say(printed.getvalue(), end=""):
            raise SystemExit(1) from None
        raise


def _complain(lines: Sequence[str], code: int) -> int:
    for line in lines:
        say(line, stream=sys.stderr)
    return code


def _dispatch(line: CommandLine) -> int:
    if line.command == "check":
        return _check(line)
    if line.command in PRINTED:
        return 0 if say(PRINTED[line.command](line), end="") else 1
    if line.command:
        return control.run(line, Machine())
    foreground.hold_later_signals()
    plan = Plan.make(load(line.config, line.overrides), line.overrides, line.restored)
    return rehearsal.run(plan) if line.test else foreground.serve(plan)


def _check(line: CommandLine) -> int:
    """Without options, and away from a ``spawn.conf``, it is the installed service that is meant."""
    service = _of_service() if not (line.config or line.overrides or os.path.exists("spawn.conf")) else None
    line = service or line
    loaded = load(line.config, line.overrides)
    found = places.look(loaded.config)
    for warning in (*loaded.warnings, *found.warnings):
        say(f"warning: {warning}", stream=sys.stderr)
    if found.faults:
        return _complain(found.faults, 2)
    count = len(loaded.config.nodes)
    with_options = ", with the options of the installed service" if service else ""
    where = loaded.path or "defaults (no configuration file found)"
    say(f"{where}: valid, {count} node{'s' * (count != 1)}{with_options}")
    return 0


def _of_service() -> CommandLine | None:
    """What the installed service was given; None where there is none. Raises ``ConfigError``."""
    try:
        options = installed.options(control.meant(Machine()))
    except ControlError:
        return None
    return None if options is None else installed.parsed(options)


if __name__ == "__main__":
    sys.exit(main())
