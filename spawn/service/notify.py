"""Telling the service manager how the service is, by the protocol of sd_notify(3)."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping

log = logging.getLogger("spawn.service")


def tell(state: str, environ: Mapping[str, str]) -> None:
    """Say ``READY=1`` and the like; nothing happens where no service manager waits for it."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)  # a manager that does not read is not waited for
        try:
            channel.connect("\0" + address[1:] if address.startswith("@") else address)
            channel.send(state.encode())
        except OSError as error:
            log.warning("the service manager cannot be told %s: %s", state, error.strerror)
