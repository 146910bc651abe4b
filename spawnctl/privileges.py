"""Becoming the service's user, for a daemon that root starts where no service manager does that.

What systemd's unit says with ``User=``, ``LimitNOFILE=``, ``AmbientCapabilities=`` and ``NoNewPrivileges=``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import resource
from dataclasses import dataclass

from daemon.daemon import DaemonOSEnvironmentError, change_process_owner

from spawn.errors import StartError

OPEN_FILES = 65_536
# linux/prctl.h, linux/capability.h
_PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS = 8, 38
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_NET_BIND_SERVICE = 10


@dataclass(frozen=True)
class Identity:
    """Whom a daemon becomes, and whether it may still bind ports below 1024."""

    user: pwd.struct_passwd
    low_ports: bool


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def become(identity: Identity) -> None:
    """Give up root for good, before there is a thread. Raises ``StartError``."""
    try:
        _allow_files()
        if identity.low_ports:
            _call("prctl", _PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.initgroups(identity.user.pw_name, identity.user.pw_gid)
        change_process_owner(identity.user.pw_uid, identity.user.pw_gid)  # with initgroups=True the group stays root
        if identity.low_ports:
            _keep_only(_CAP_NET_BIND_SERVICE)
        _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    except (OSError, DaemonOSEnvironmentError) as error:
        raise StartError(f"cannot become user {identity.user.pw_name}: {error}") from None
    _take_on(identity.user)


def _allow_files() -> None:
    """Every connection is a file, and SysV init leaves the kernel's limit of 4096. More than that stays."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        with contextlib.suppress(OSError, ValueError):  # not in every container; the service says what is too few
            resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))


def _keep_only(capability: int) -> None:
    """capset(2): the capabilities that survived the change of user are all but this one given up."""
    header = _Header(_CAPABILITY_VERSION_3, 0)
    sets = (_Sets * 2)()
    sets[0].effective = sets[0].permitted = 1 << capability
    _call("capset", ctypes.byref(header), ctypes.byref(sets))


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _take_on(user: pwd.struct_passwd) -> None:
    """An environment of its own: root's would point into root's home."""
    for name in [name for name in os.environ if name.startswith("XDG_")]:
        del os.environ[name]
    os.environ.update({"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name})
