"""What is measured: Spawn, and nginx and HAProxy as the proxies that it is compared with, each on a core of its own.

Spawn runs as an operator would run it: reads are fresh, health checks run, counters count, updates are durable, and
there is no access log. The peers have one process and one thread, and are set up as their manuals advise: kept
HTTP/1.1 connections to the nodes, round-robin, no access log, the client's address and scheme told to the node (which
Spawn does too).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import requests

from bench.machine import Cores
from bench.programs import BODY, NGINX, Api, Broken, Process, free_port

READY_S = 30.0
SETTLE_S = 120.0  # for all nodes to get what clients have been told
POLL_S = 0.02
FAULTS = {  # counters that stay at zero while nothing goes wrong
    "reads.behind",
    "reads.failed",
    "reads.failed-over",
    "updates.accepted",
    "updates.answer-cut",
    "updates.not-taken",
    "updates.rejected",
    "delivery.disagreed",
    "delivery.not-now",
    "delivery.not-sent",
    "delivery.unknown",
    "proxy.failures",
    "proxy.refused",
    "proxy.refused-connections",
    "proxy.timed-out",
}
PROXY = """
  upstream nodes { %(nodes)s keepalive 128; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:%(port)d backlog=1024;
    client_max_body_size 0;
    location / {
      proxy_pass http://nodes;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
%(extra)s
    }
  }
"""
HAPROXY = """
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option forwardfor
  http-reuse always
frontend clients
  bind 127.0.0.1:%(port)d
  http-request set-header X-Forwarded-Proto http
  default_backend nodes
backend nodes
  balance roundrobin
%(nodes)s
"""


@dataclass
class Candidate:
    name: str
    port: int
    process: Process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def verify(self) -> None:
        """Answers a GET and a POST as the nodes do. Raises ``Broken``."""
        session = requests.Session()
        session.trust_env = False  # no proxy of the user's
        for method in ("GET", "POST"):
            body = None if method == "GET" else "{}"
            answer = session.request(method, self.url + "/items/1", data=body, timeout=30)
            if (answer.status_code, answer.text) != (200, BODY):
                raise Broken(f"{self.name} answers a {method} with {answer.status_code} {answer.text[:100]!r}")

    def settle(self) -> float:
        """Returns when everything that the clients have been told is done on all nodes: seconds that it took."""
        return 0.0

    def check(self) -> None:
        """Nothing has gone wrong so far. Raises ``Broken``."""
        self.process.check()


@dataclass
class SpawnCandidate(Candidate):
    api: Api

    def settle(self) -> float:
        began = time.monotonic()
        while any(int(str(row["backlog"])) for row in self.api.queues()):
            if time.monotonic() - began > SETTLE_S:
                raise Broken(f"nodes have not got everything within {SETTLE_S:g} s")
            time.sleep(POLL_S)
        return time.monotonic() - began

    def check(self) -> None:
        super().check()
        if wrong := {name: count for name, count in self.api.counters().items() if name in FAULTS and count}:
            raise Broken(f"{self.name} has counted {wrong}")


def spawn(
    cores: Cores,
    directory: Path,
    nodes: Sequence[int],
    name: str = "spawn",
    python: str = sys.executable,
    **settings: object,
) -> SpawnCandidate:
    """The Spawn that ``python`` imports; ``settings`` replace keys of the configuration.

    A ``state`` directory that is there already is gone on with.
    """
    directory.mkdir(exist_ok=True)
    port, api_port = free_port(), free_port()
    config = {
        "host": "127.0.0.1",
        "port": port,
        "api": {"port": api_port},
        "query-mode": {"round-robin": True},
        "health-check": {"seconds": 1, "url": "/info", "regexp": "^version:1$"},
        "state-dir": str(directory / "state"),
        "nodes": [{"host": "127.0.0.1", "port": node} for node in nodes],
    }
    path = directory / "spawn.conf"
    path.write_text(json.dumps({**config, **settings}))
    command = cores.pinned([python, "-P", "-m", "spawnctl", f"--config={path}"])
    candidate = SpawnCandidate(name, port, Process(command, directory / "spawn.out"), Api(api_port))
    with candidate.process.ended_on_failure():
        _wait_healthy(candidate)
    return candidate


def _wait_healthy(candidate: SpawnCandidate) -> None:
    until = time.monotonic() + READY_S
    while not candidate.api.healthy():
        candidate.process.check()
        if time.monotonic() > until:
            raise Broken(f"{candidate.name} is not ready within {READY_S:g} s")
        time.sleep(POLL_S)


def nginx_proxy(cores: Cores, directory: Path, nodes: Sequence[int], name: str = "nginx", extra: str = "") -> Candidate:
    """``extra``: further directives of its ``location``."""
    directory.mkdir()
    port = free_port()
    upstream = " ".join(f"server 127.0.0.1:{node};" for node in nodes)
    config = directory / "nginx.conf"
    servers = PROXY % {"nodes": upstream, "port": port, "extra": extra}
    config.write_text(NGINX % {"dir": directory, "servers": servers})
    return _started(name, port, cores.pinned(["nginx", "-c", str(config)]), directory)


def haproxy(cores: Cores, directory: Path, nodes: Sequence[int], name: str = "haproxy") -> Candidate:
    directory.mkdir()
    port = free_port()
    servers = "\n".join(f"  server node{number} 127.0.0.1:{node}" for number, node in enumerate(nodes))
    config = directory / "haproxy.cfg"
    config.write_text(HAPROXY % {"port": port, "nodes": servers})
    return _started(name, port, cores.pinned(["haproxy", "-db", "-f", str(config)]), directory)


def _started(name: str, port: int, command: list[str], directory: Path) -> Candidate:
    process = Process(command, directory / f"{name}.out")
    with process.ended_on_failure():
        process.wait_listening(port)
    return Candidate(name, port, process)
