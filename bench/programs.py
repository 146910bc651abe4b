"""The programs around Spawn in a benchmark: nginx as its nodes, wrk as its clients. Both cost little beside Spawn.

Debian has them: ``apt-get install nginx-light wrk``.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import requests

BODY = "0123456789" * 10
NGINX = """
daemon off; master_process off; pid %(dir)s/nginx.pid; error_log stderr error;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s;
  client_body_temp_path %(dir)s/body; proxy_temp_path %(dir)s/proxy; fastcgi_temp_path %(dir)s/fastcgi;
  uwsgi_temp_path %(dir)s/uwsgi; scgi_temp_path %(dir)s/scgi;
%(servers)s
}
"""
SERVER = """
  server {
    listen 127.0.0.1:%d backlog=1024;
    location = /info { return 200 "version:1"; }
    location / { return 200 "%s"; }
%s
  }
"""
POST_SCRIPT = """
wrk.method = "POST"
wrk.path = "/items"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"text": "%s"}'
"""


class Broken(Exception):
    """A program did not do what it was asked, so nothing that was measured counts."""


def require(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        sys.exit(f"{', '.join(missing)} not found; on Debian: apt-get install nginx-light haproxy wrk")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(command: Sequence[str], cwd: Path | None = None) -> str:
    """What a child printed. Raises ``Broken`` when it failed."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, process_group=0)
    if done.returncode:
        raise Broken(f"{command!r} ended with {done.returncode}:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    return done.stdout


class Process:
    """One child; its output goes to a file of its own.

    It is no member of this process's group, so that Ctrl-C does not end it behind the benchmark's back.
    """

    def __init__(self, command: Sequence[str], output: Path, cwd: Path | None = None) -> None:
        self._output = output
        with output.open("ab") as file:
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=cwd, process_group=0
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def output(self) -> str:
        return self._output.read_text()

    def check(self) -> None:
        """Raises ``Broken`` when it has ended."""
        if self._child.poll() is not None:
            raise Broken(f"{self._child.args!r} ended with {self._child.returncode}:\n{self.output[-2000:]}")

    @contextmanager
    def ended_on_failure(self) -> Iterator[None]:
        """Around what has to succeed before somebody else takes care of the process."""
        try:
            yield
        except BaseException:
            self.stop()
            raise

    def wait_listening(self, port: int, timeout_s: float = 30.0) -> None:
        """Raises ``Broken`` when it has ended, or the time is over."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            self.check()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                time.sleep(0.005)
            else:
                return
        raise Broken(f"nobody listens on port {port}")

    def memory_mib(self, what: str) -> float:
        """``what``: VmRSS (now) or VmHWM (the most it ever had)."""
        status = Path(f"/proc/{self.pid}/status").read_text("ascii")
        found = re.search(rf"{what}:\s+(\d+) kB", status)
        assert found, what
        return int(found[1]) / 1024

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """In order if it can; may be called twice."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            try:
                self._child.wait(30)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()


def nginx(directory: Path, ports: Sequence[int], extra: str = "") -> Process:
    """One process that is all nodes: ``/info`` says version:1, everything else 200 and 100 bytes.

    ``extra``: further locations.
    """
    directory.mkdir()
    servers = "".join(SERVER % (port, BODY, extra) for port in ports)
    config = directory / "nginx.conf"
    config.write_text(NGINX % {"dir": directory, "servers": servers})
    process = Process(["nginx", "-c", str(config)], directory / "nginx.out")
    with process.ended_on_failure():
        for port in ports:
            process.wait_listening(port)
    return process


@dataclass(frozen=True)
class Traffic:
    """What wrk has seen."""

    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int  # answers other than 2xx and 3xx, and broken connections


class Clients:
    """wrk with one thread and a number of kept connections, each of which waits for its answer."""

    def __init__(self, directory: Path, url: str, connections: int) -> None:
        self._url = url
        self._connections = connections
        self._script = directory / "post.lua"
        self._script.write_text(POST_SCRIPT % BODY)

    def run(self, method: str, seconds: int) -> Traffic:
        command = ["wrk", "-t1", f"-c{self._connections}", f"-d{seconds}s", "--latency", "--timeout", "30s"]
        if method == "POST":
            command += ["-s", str(self._script)]
        return _parsed(run([*command, self._url + "/items/1"]))


def _parsed(text: str) -> Traffic:
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert rate, text
    failed = sum(map(int, errors.groups())) if errors else 0
    return Traffic(float(rate[1]), _latency_ms(text, "50"), _latency_ms(text, "99"), failed + int(bad[1] if bad else 0))


def _latency_ms(text: str, percent: str) -> float:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s)$", text, re.M)
    assert found, text
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


class Api:
    """Spawn's admin API, as far as a benchmark needs it."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._session = requests.Session()
        self._session.trust_env = False

    def healthy(self) -> bool:
        try:
            return self._session.get(self._url + "/health", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def counters(self) -> dict[str, int]:
        return {str(row["name"]): int(str(row["value"])) for row in self._rows("/counters")}

    def queues(self) -> list[dict[str, object]]:
        return self._rows("/queues")

    def queue(self, port: int) -> dict[str, object]:
        return self._rows(f"/queues/127.0.0.1/{port}")[0]

    def _rows(self, path: str) -> list[dict[str, object]]:
        answer = self._session.get(self._url + path, timeout=10)
        answer.raise_for_status()
        rows: list[dict[str, object]] = answer.json()["data"]["results"]
        return rows

    def position(self, port: int) -> int:
        return int(str(self.queue(port)["position"]))

    def maintenance(self, port: int, on: bool) -> None:
        url = f"{self._url}/nodes/127.0.0.1/{port}"
        self._session.put(url, json={"maintenance": on}, timeout=30).raise_for_status()
