"""What machines are made of: cached root file systems of real Debian, a wheelhouse, and the wheel of this source.

There is one root file system per *kind* of init. Each holds a virtual environment ``/opt/spawn`` with what Spawn needs
at run time, but not Spawn: a test installs that from the wheel. They are named after a hash of all that goes into them
and live outside the repository, in ``SPAWN_TEST_CACHE`` or ``/var/cache/spawn-tests``, because they take minutes and
must survive ``make clean``. ``python -m tests.support.rootfs`` makes them ahead.

Invariants: an entry of the cache is whole or not there (it is built under another name, and renamed when it is done);
one process builds it while others wait; a build that is killed leaves neither a process nor a mount behind.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

SOURCE = Path(__file__).parents[2]
SUITE, PYTHON = "bookworm", "3.11"  # Debian 12 and its Python
MIRROR = os.environ.get("SPAWN_TEST_MIRROR", "")  # empty: the one that debootstrap knows itself
BUILD_TIMEOUT_S = 900
NEWEST_GLIBC = 36  # of SUITE: 2.36
PROGRAMS = ("debootstrap", "systemd-nspawn", "nsenter", "unshare", "setpriv", "setsid")

_BOTH = "logrotate,procps,python3,python3-venv,util-linux"
Say = Callable[[str], None]


class Kind(Enum):
    """Who is process 1."""

    SYSTEMD = "systemd"
    SYSV = "sysv"

    def __str__(self) -> str:
        return self.value


_INCLUDED = {
    Kind.SYSTEMD: f"systemd,systemd-sysv,dbus,libpam-systemd,{_BOTH}",
    Kind.SYSV: f"sysvinit-core,sysv-rc,initscripts,insserv,init-system-helpers,{_BOTH}",
}
_EXCLUDED = {Kind.SYSTEMD: "cron", Kind.SYSV: "cron,systemd,systemd-sysv,libpam-systemd"}

# $1: the directory to make, $2 and $3: what to include and to exclude, $4: the wheelhouse, $5: the requirements
_BUILD = f"""
debootstrap --variant=minbase --include="$2" --exclude="$3" {SUITE} "$1" {MIRROR}
mkdir -p "$1/wheels"
mount --bind "$4" "$1/wheels"
chroot "$1" python3 -m venv /opt/spawn
chroot "$1" /opt/spawn/bin/pip install --quiet --disable-pip-version-check --no-index --find-links=/wheels $5
umount "$1/wheels"
chroot "$1" apt-get clean
rm -rf "$1"/var/lib/apt/lists/* "$1"/var/log/*.log "$1/etc/resolv.conf"
rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/locale/*
"""
# A container has a console, no virtual terminals, and no clock to set. What is added to the table of SysV init says
# that all scripts of the run level have ended.
_TAILOR = {
    Kind.SYSTEMD: """
chroot "$1" systemctl mask --quiet console-getty.service systemd-journal-catalog-update.service
chroot "$1" systemctl disable --quiet apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer dpkg-db-backup.timer
""",
    Kind.SYSV: """
echo HWCLOCKACCESS=no >>"$1/etc/default/hwclock"
sed -i '/getty/d' "$1/etc/inittab"
mkdir -p "$1/etc/inittab.d"
echo 'up:2345:once:/bin/touch /run/booted' >>"$1/etc/inittab"
""",
}


def cache_directory() -> Path:
    return Path(os.environ.get("SPAWN_TEST_CACHE") or "/var/cache/spawn-tests")


def requirements() -> list[str]:
    """What Spawn needs at run time, as setup.py says it."""
    for node in ast.walk(ast.parse((SOURCE / "setup.py").read_text("utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "install_requires":
            return [str(requirement) for requirement in ast.literal_eval(node.value)]
    raise AssertionError("setup.py names no requirements")


def root_file_system(kind: Kind, say: Say = print) -> Path:
    """The cached root file system; never write to it. Needs root."""
    wheels, needed = wheelhouse(say), requirements()
    script = _BUILD + _TAILOR[kind]
    recipe = [script, _INCLUDED[kind], _EXCLUDED[kind], platform.machine(), *needed]

    def build(target: Path) -> None:
        words = [str(target), _INCLUDED[kind], _EXCLUDED[kind], str(wheels), " ".join(f"'{word}'" for word in needed)]
        _run(contained(["sh", "-euxc", script.replace("$5", words.pop()), "sh", *words]), target)

    return _cached(f"{kind}-{_hash(recipe)}", build, say)


def wheelhouse(say: Say = print) -> Path:
    """Wheels of all that Spawn needs at run time, for the Python of the root file systems."""
    needed = requirements()

    def build(target: Path) -> None:
        target.mkdir()
        _run([*_pip("download"), *_target_platform(), f"--dest={target}", *needed], target)

    return _cached(f"wheels-{_hash([PYTHON, platform.machine(), *needed])}", build, say)


def spawn_wheel(shared: Path) -> Path:
    """A directory with the wheel of this source, made once in ``shared``, whoever asks first."""
    target = shared / "spawn-wheel"
    with _locked(shared / "spawn-wheel.lock", lambda: None):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=shared) as scratch:
                copy = _copy_of_source(Path(scratch))
                made = Path(scratch) / "wheel"
                _run([*_pip("wheel"), "--no-deps", f"--wheel-dir={made}", str(copy)], copy)
                made.rename(target)
    return target


def _copy_of_source(scratch: Path) -> Path:
    """setuptools keeps what it has built beside the source, and would put into a wheel what was deleted since."""
    copy = scratch / "source"
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy2(SOURCE / name, copy)
    for name in ("build_support", "spawn", "spawnctl", "init"):
        shutil.copytree(SOURCE / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def _pip(verb: str) -> list[str]:
    return [sys.executable, "-m", "pip", verb, "--quiet", "--disable-pip-version-check"]


def _target_platform() -> list[str]:
    """Not this machine's platform: its C library may be newer than that of the root file systems."""
    machine = platform.machine()
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(5, NEWEST_GLIBC + 1)]
    tags += [f"manylinux{name}_{machine}" for name in ("1", "2010", "2014")]
    return ["--only-binary=:all:", f"--python-version={PYTHON}", *(f"--platform={tag}" for tag in tags)]


def contained(command: list[str]) -> list[str]:
    """The command with processes and mounts of its own, which end when it ends, or when we do."""
    namespaces = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return ["setpriv", "--pdeathsig=KILL", *namespaces, *command]


def _run(command: list[str], target: Path) -> None:
    """The output goes to a file beside the target, which is gone when all went well."""
    log = target.with_name(f"{target.name}.log")
    try:
        with log.open("wb") as output:
            subprocess.run(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, check=True,
                           timeout=BUILD_TIMEOUT_S)  # fmt: skip
    except subprocess.SubprocessError as error:
        tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-30:])
        raise AssertionError(f"{command[0]} failed ({error}), see {log}:\n{tail}") from None
    log.unlink()


def _cached(name: str, build: Callable[[Path], None], say: Say) -> Path:
    cache = cache_directory()
    cache.mkdir(mode=0o755, parents=True, exist_ok=True)
    entry = cache / name
    if entry.exists():
        return entry
    with _locked(cache / f"{name}.lock", lambda: say(f"another run makes {entry}: waiting for it")):
        if not entry.exists():
            started = time.monotonic()
            say(f"making {entry}, once; this takes a minute or two")
            draft = cache / f".{name}.draft"
            shutil.rmtree(draft, ignore_errors=True)  # of a run that was killed
            build(draft)
            draft.rename(entry)
            say(f"made {entry} in {time.monotonic() - started:.0f} s")
    return entry


@contextmanager
def _locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """The kernel drops the lock with the process that has it."""
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _hash(words: list[str]) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:12]


if __name__ == "__main__":
    for wanted in Kind:
        print(root_file_system(wanted))
