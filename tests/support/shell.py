"""An interactive shell on a terminal of its own, to type at and to ask what its command line has become.

The shell is told to write the line that is being edited to a file when a key is pressed, so nobody has to read what it
draws. Another key puts in every completion that it would offer, instead of listing them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import struct
import subprocess
import termios
import threading
from pathlib import Path
from types import TracebackType

from tests.support.processes import clean_environment
from tests.support.waiting import eventually

_SHOW, _ALL, _CLEAR, _TAB = b"\x0f", b"\x0e", b"\x15", b"\t"  # Ctrl-O, Ctrl-N, Ctrl-U
_KEYS = {
    "bash": r"""
        PS1='[ready] '
        bind 'set enable-bracketed-paste off'
        bind 'set bell-style none'
        bind '"\C-n": insert-completions'
        show() { printf '%s\n' "$READLINE_LINE" >"$SHOWN"; }
        bind -x '"\C-o": show'
        """,
    "zsh": r"""
        PS1='[ready] '
        unset zle_bracketed_paste
        setopt no_beep
        show() { print -r -- "$BUFFER" >"$SHOWN" }
        zle -N show
        insert_all() { _main_complete; compstate[insert]=all; compstate[list]= }
        zle -C insert_all complete-word insert_all
        bindkey -e
        bindkey '^O' show
        bindkey '^N' insert_all
        bindkey '^U' kill-whole-line
        """,
}
_COMMANDS = {"bash": "bash --noprofile --rcfile {rc} -i", "zsh": "zsh -f -i"}


class Shell:
    """A shell of this name that has run ``setup`` in ``directory``; a context manager."""

    def __init__(self, name: str, setup: str, directory: Path) -> None:
        self._shown, rc = directory / "shown", directory / "rc"
        rc.write_text(f"{_KEYS[name]}\n{setup}\n", "utf-8")
        self._master, terminal = os.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
        self._output = b""
        environment = clean_environment(directory, {"SHOWN": str(self._shown), "TERM": "vt100", "HISTFILE": ""})
        # A session's first terminal to be opened is its controlling one.
        opened = f"exec {_COMMANDS[name].format(rc=shlex.quote(str(rc)))} <>{os.ttyname(terminal)} >&0 2>&1"
        self._process = subprocess.Popen(
            ["sh", "-c", opened], cwd=directory, env=environment, start_new_session=True, stdin=subprocess.DEVNULL
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._terminal = terminal  # kept open, so that the other end is never without one
        if name == "zsh":
            self._type(f". {shlex.quote(str(rc))}\n".encode())

    def __enter__(self) -> Shell:
        try:
            eventually(lambda: b"[ready] " in self._output, timeout_s=30, what="the shell's prompt")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for end in (self._terminal, self._master):
            os.close(end)
        self._reader.join()

    def tab(self, line: str) -> str:
        """What the line has become by the Tab key."""
        return self._edited(line.encode() + _TAB)

    def offers(self, line: str) -> list[str]:
        """What may stand for the last word of the line, sorted."""
        before = line[: line.rindex(" ") + 1]
        edited = self._edited(line.encode() + _ALL)
        assert edited.startswith(before), self._output.decode("utf-8", "replace")
        found = sorted(shlex.split(edited[len(before) :]))
        return [] if found == shlex.split(line[len(before) :]) else found

    def _edited(self, keys: bytes) -> str:
        self._shown.unlink(missing_ok=True)
        self._type(_CLEAR + keys + _SHOW)

        def line() -> str:
            text = self._shown.read_text("utf-8")
            return text if text.endswith("\n") else ""

        try:
            return eventually(line, timeout_s=30, what=f"an answer to {keys!r}")[:-1]
        except AssertionError as error:
            raise AssertionError(f"{error}; on the terminal: {self._output[-2000:]!r}") from None

    def _type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # it is closed
            while data := os.read(self._master, 65_536):
                self._output += data
