"""The whole service: what is built from what, and in which order it starts and stops.

``Service`` is the embeddable thing; a process around it adds signals (``signals``) and tells a service manager how it
is (``supervision``). It needs a gevent hub in the calling thread and never monkey-patches, so it runs in anybody's
program.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

import msgspec
from gevent.event import Event
from gevent.lock import RLock

import spawn
import spawn.log
from spawn.admin.app import build as build_admin
from spawn.admin.settings import AdminSettings
from spawn.config.load import default_state_dir, load
from spawn.config.reload import changes
from spawn.config.schema import Config
from spawn.counters import Counters
from spawn.delivery.answers import ReferenceBoard
from spawn.delivery.attempt import WorkerSettings
from spawn.delivery.changes import Changes
from spawn.delivery.electorate import Electorate
from spawn.delivery.fleet import Fleet
from spawn.delivery.freshness import Freshness
from spawn.delivery.report import Report, backlog, unsettled
from spawn.delivery.retention import Retention
from spawn.delivery.worker import Worker, WorkerEvents
from spawn.errors import ConfigError, JournalBroken, JournalError, ProtocolError, SpawnError, StartError
from spawn.http11.client import Client
from spawn.http11.deadlines import Deadlines
from spawn.http11.forwarding import via_name
from spawn.http11.message import Request, ResponseWriter
from spawn.http11.resolver import Resolver
from spawn.http11.server import HttpServer, ServerLimits, ServerTimeouts
from spawn.http11.spool import MemoryBudget, Spool
from spawn.http11.threads import in_thread
from spawn.http11.wsgi import wsgi_handle
from spawn.journal.base import INLINE_BODY_BYTES, Backup, Journal
from spawn.journal.memory import MemoryJournal
from spawn.journal.sqlite import SqliteJournal
from spawn.nodes.balance import Balancer
from spawn.nodes.health import HealthChecker
from spawn.nodes.node import Node
from spawn.nodes.registry import Registry
from spawn.proxy.bodies import Room
from spawn.proxy.context import Cluster, ProxySettings
from spawn.proxy.handler import Proxy
from spawn.service.backend import Backend
from spawn.service.backup import Backups
from spawn.service.condition import Address, Condition, announce, serving_status
from spawn.service.process import prepare_process
from spawn.state.directory import StateDirectory
from spawn.state.nodes import NodeStore

log = logging.getLogger("spawn.service")

SPOOL_MEMORY_BYTES = 33_554_432  # over all bodies on their way; files beyond
ADMIN_BODY_BYTES = 1_048_576
ADMIN_CONNECTIONS = 1_000
CATCH_UP_S = 1.0  # a start waits no longer than this for a node that is nearly there
BROKEN_STOP_S = 0.5  # with a broken journal nothing is worth waiting for
RESTORED = (
    "started with --restored: the journal has a new identity (%s) and goes on after update %d; all nodes are out of "
    'sync until each is told its position (PUT /queues/HOST/PORT {"position": N or "head"}); start without --restored '
    "from now on, or all of this is done again"
)


class Service:
    """One Spawn. ``start`` returns when both ports are open; then let the hub run (``wait``), then ``stop``.

    ``state_dir`` overrides the configuration's. ``config_path`` and ``overrides`` are what ``reload`` reads again.
    ``restored``: what is in the state directory comes from a backup. The first start makes it a journal of its own.
    """

    def __init__(
        self,
        config: Config,
        *,
        state_dir: str | None = None,
        config_path: str | None = None,
        overrides: Mapping[str, object] | None = None,
        restored: bool = False,
    ) -> None:
        self.config = config
        self.counters = Counters()
        self._condition = Condition()
        self._config_path = config_path
        self._overrides = dict(overrides or {})
        self._restored = restored
        self._state = StateDirectory(state_dir or default_state_dir(config, os.geteuid(), os.environ))
        self.ended = Event()  # set when the service has stopped, or has to be stopped
        self._changing = RLock()
        self._built = False
        self._in_flight = 0  # requests of clients

    # -- what an owner sees

    @property
    def proxy_address(self) -> Address:
        return (self.config.host, self._proxy_server.port)

    @property
    def api_address(self) -> Address:
        return (self.config.api.host, self._api_server.port)

    def backlog(self) -> dict[str, int]:
        """Updates that each active node has yet to get, by ``host:port``."""
        return backlog(self._fleet)

    def unsettled(self) -> dict[str, str]:
        """Active nodes that have not, or not surely, applied every update, by ``host:port``, and why in a few words."""
        return unsettled(self._fleet)

    @property
    def shutdown_s(self) -> float:
        """A stop takes no longer than about this."""
        return self.config.timeouts.shutdown

    def status(self) -> str:
        """How the service is, in one line."""
        if not self._condition.health()[0]:
            return self._condition.status()
        return serving_status(self.proxy_address, self.api_address, self._registry.nodes, self._journal.head)

    def answers(self, timeout_s: float) -> bool:
        """Whether the journal's thread is alive; waits for it no longer than ``timeout_s``. See ``Journal.answers``."""
        return not self._built or self._journal.answers(timeout_s)

    def backup(self) -> Backup:
        """Copy the state beside the traffic; see ``spawn.service.backup``. Raises ``JournalError`` in one line."""
        if self._condition.phase != "serving":
            raise JournalError("the service does not run")
        return self._backups.make()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Let the service run until it ends; False when time ran out. Raises ``JournalBroken`` when it had to end."""
        ended = self.ended.wait(timeout_s)
        if self._condition.broken:
            raise JournalBroken(self._condition.broken)
        return bool(ended)

    # -- start

    def start(self) -> None:
        """Raises ``StartError`` with one line for the operator; nothing is left running then."""
        if self._condition.phase == "serving":
            raise StartError("this service runs already")
        self._condition, self._built = Condition(step="opening the state directory"), False
        self.ended.clear()
        prepare_process(self.config.limits.connections)
        try:
            self._start()
        except BaseException:
            self.stop(1.0)
            raise

    def _start(self) -> None:
        config = self.config
        if self._restored:
            self._check_restorable()
        self._state.open()  # first: the lock says that everything in it is ours
        self._build(config)
        self._built = True
        self._deadlines.start()
        self._api_server.bind()  # before anything is changed: a port that is taken is the commonest mistake
        self._proxy_server.bind()
        self._condition.step = "opening the journal"
        self._journal.start(self._fleet.publish, self._on_broken)
        in_thread(self._backups.sweep)
        self._name_ourselves()
        self._fleet.start(
            config.nodes, journal_lasts=config.journal.durability != "none", restored=self._restored
        )  # fmt: skip
        if self._restored:
            self._restored = False  # done; the same service may be stopped and started again
            log.warning(RESTORED, self._journal.uuid, self._journal.head)
        self._condition.step = "asking the nodes how they are"
        self._api_server.start()  # GET /health says that the service is starting
        self._checker.wait_first_round()  # so that the first request finds a decided state
        self._condition.step = "giving the nodes their last updates"
        self._let_catch_up()
        self._retention.start()
        self._proxy_server.start()
        self._condition.phase = "serving"
        self._fleet.announce()
        nodes, head = self._registry.nodes, self._journal.head
        announce(config, self.proxy_address, self.api_address, nodes, head)

    def _let_catch_up(self) -> None:
        """After a kill every node is given its last few updates again: no reason to meet the first clients with 202."""
        self._freshness.wait_for(self._freshness.floor, lambda: not self._fleet.is_about_to_serve() or None, CATCH_UP_S)

    def _check_restorable(self) -> None:
        """Before anything is made."""
        if self.config.journal.durability == "none":
            raise StartError('--restored is for a journal on disk, and "journal.durability" is "none"')
        self._state.require()

    def _build(self, config: Config) -> None:
        """Bottom up, as in the order of imports. Nothing here starts anything."""
        self._deadlines = Deadlines()
        self._resolver = Resolver()
        self._client = Client(self._resolver, self._deadlines, connect_timeout_s=config.timeouts.connect)
        self._journal = self._make_journal(config)
        self._backups = Backups(self._state.path, self._journal)
        self._registry = Registry(NodeStore(self._state.path))
        self._balancer = Balancer(config.query_mode)
        self._freshness = Freshness()
        self._worker_settings = WorkerSettings(config.delivery, config.timeouts)
        self._fleet = Fleet(
            self._registry, self._journal, self._freshness, self._make_worker, self.counters, self._client.forget
        )
        electorate = Electorate(self._fleet)
        self._board = ReferenceBoard(
            self._journal,
            lambda: self._fleet.speakers,
            self._make_answer_spool,
            self._fleet.on_disagreement,
            self._fleet.on_settled,
            electorate.suspects,
            electorate.speakers_before,
            electorate.present_before,
            electorate.expected_before,
        )
        self._board.agree_s = config.timeouts.agree
        agent = f"spawn/{spawn.__version__} (health check)"
        self._checker = HealthChecker(
            self._client, config.health_check, config.delivery.set_headers, self._fleet.on_health, agent
        )
        self._fleet.attach(self._board, self._checker)
        self._retention = Retention(self._fleet, self._journal, config.journal.retain)
        self._budget = MemoryBudget(SPOOL_MEMORY_BYTES)
        self._room = Room(self._journal, self._retention.make_room, self._retention.could_make_room)
        self._proxy_server = self._make_proxy_server(config)
        self._api_server = self._make_api_server(config)

    def _make_journal(self, config: Config) -> Journal:
        if config.journal.durability == "none":
            return MemoryJournal(config.journal.max_bytes, self._state.spool_path)
        return SqliteJournal(self._state.journal_path, config.journal.max_bytes, restored=self._restored)

    def _make_worker(self, node: Node, events: WorkerEvents) -> Worker:
        return Worker(node, self._journal, self._client, self._board, self._worker_settings, events, self.counters)

    def _make_spool(self) -> Spool:
        limit = self.config.limits.body
        return Spool(self._journal.spool_path(), INLINE_BODY_BYTES, limit, self._budget)

    def _make_answer_spool(self) -> Spool:
        limit = self.config.limits.answer
        return Spool(self._journal.spool_path(), INLINE_BODY_BYTES, limit, self._budget)

    def _make_proxy_server(self, config: Config) -> HttpServer:
        return HttpServer(
            (config.host, config.port),
            self._handle_proxy,
            limits=_server_limits(config),
            timeouts=_server_timeouts(config),
            deadlines=self._deadlines,
            counters=self.counters,
            name="proxy",
            hint='--port or "port"',
        )

    def _make_api_server(self, config: Config) -> HttpServer:
        return HttpServer(
            (config.api.host, config.api.port),
            self._handle_api,
            limits=_api_limits(config),
            timeouts=_server_timeouts(config),
            deadlines=self._deadlines,
            counters=self.counters,
            name="api",
            hint='--api-port or "api.port"',
        )

    def _name_ourselves(self) -> None:
        """What needs the journal's identity or the bound ports."""
        cluster = Cluster(
            journal=self._journal,
            registry=self._registry,
            fleet=self._fleet,
            board=self._board,
            freshness=self._freshness,
            balancer=self._balancer,
            client=self._client,
            retention=self._retention,
            counters=self.counters,
            via=via_name(self._journal.uuid),
            make_spool=self._make_spool,
            room=self._room,
        )
        self._proxy = Proxy(cluster, ProxySettings.of(self.config))
        backend = Backend(
            self._fleet,
            Changes(self._fleet, self.counters),
            Report(self._fleet),
            self._balancer,
            self.counters,
            self._condition.health,
            self.backup,
        )
        self._api = wsgi_handle(build_admin(backend, self._admin_settings()))

    def _admin_settings(self) -> AdminSettings:
        config = self.config
        return AdminSettings(
            version=spawn.__version__,
            release_date=spawn.__date__,
            compiled=spawn.COMPILED,
            listeners=(self.proxy_address, self.api_address),
            own_hosts=(socket.gethostname(),),
            hosts=(config.api.host, *config.api.hosts),
            origins=config.api.origins,
            via=via_name(self._journal.uuid),
        )

    def _handle_proxy(self, request: Request, response: ResponseWriter) -> None:
        self._in_flight += 1
        try:
            if self.config.log.access:
                self._handle_logged(request, response)
            else:
                self._proxy(request, response)
        finally:
            self._in_flight -= 1

    def _handle_logged(self, request: Request, response: ResponseWriter) -> None:
        started = time.monotonic()
        fault = 0  # the status of an answer that the server will give
        try:
            self._proxy(request, response)
        except ProtocolError as error:
            fault = error.status
            raise
        finally:
            log_access(request, response.status or fault, time.monotonic() - started)

    def _handle_api(self, request: Request, response: ResponseWriter) -> None:
        self._api(request, response)

    # -- life

    def _on_broken(self, reason: str) -> None:
        """Nothing can be promised any more. The owner, or the supervisor, starts anew, and recovery decides."""
        log.critical("the journal has failed: %s; Spawn stops", reason)
        self._condition.broken = reason
        self.ended.set()

    def reload(self) -> bool:
        """Read the configuration again; whether it was taken over. A bad file changes nothing and is logged."""
        if self._config_path is None:
            log.warning("there is no configuration file to read again")
            return True
        try:
            loaded = in_thread(load, self._config_path, self._overrides)
        except ConfigError as error:
            for fault in error.faults:
                log.error("%s", fault)
            log.error("the configuration is not taken over, everything stays as it was")
            return False
        for warning in loaded.warnings:
            log.warning("%s", warning)
        with self._changing:
            try:
                self._take_over(loaded.config)
            except SpawnError as error:
                log.error("the configuration was read again, but its new nodes are not stored: %s", error)
                return False
        return True

    def _take_over(self, config: Config) -> None:
        reload = changes(self.config, config)
        for key in reload.restart:
            log.warning("%s has changed, which takes effect at the next start", key)
        self.config = _with_listeners_of(self.config, config)
        spawn.log.set_level(config.log.level)
        self._proxy.settings = ProxySettings.of(self.config)
        self._worker_settings.delivery = config.delivery
        self._worker_settings.timeouts = config.timeouts
        self._client.connect_timeout_s = config.timeouts.connect
        self._board.agree_s = config.timeouts.agree
        self._balancer.mode = config.query_mode
        self._proxy_server.limits = _server_limits(config)
        self._api_server.limits = _api_limits(config)
        self._proxy_server.timeouts = self._api_server.timeouts = _server_timeouts(config)
        if "health-check" in reload.live or "delivery" in reload.live:
            self._checker.configure(config.health_check, config.delivery.set_headers)
        added = self._fleet.add_file_nodes(config.nodes)
        self._fleet.refresh()
        what = [*reload.live, *(f"new node {node.name}" for node in added)]
        log.info("the configuration was read again: %s", ", ".join(what) or "nothing has changed")

    # -- stop

    def stop(self, deadline_s: float | None = None) -> None:
        """Stop in an order in which nothing is lost; may be called twice."""
        if self._condition.phase in ("stopping", "stopped"):
            self.ended.wait(deadline_s)
            return
        self._condition.phase = "stopping"
        if self._built:
            self._stop_parts(self.config.timeouts.shutdown if deadline_s is None else deadline_s)
        self._state.close()
        self._condition.phase = "stopped"
        self.ended.set()

    def _stop_parts(self, deadline_s: float) -> None:
        end = time.monotonic() + (BROKEN_STOP_S if self._condition.broken else deadline_s)

        def left_s(share: float = 1.0) -> float:
            return max(0.1, (end - time.monotonic()) * share)

        if self._in_flight:
            self._condition.step = f"requests in flight: {self._in_flight}; they have {left_s(0.7):.0f} s to end"
            log.info("%s", self._condition.step)
        self._proxy_server.stop(left_s(0.7))  # no new work; requests in flight still need workers and journal
        self._checker.stop()
        self._condition.step = "deliveries in flight may end"
        self._fleet.stop(left_s(0.6))  # between updates; what is in flight may finish
        self._retention.stop()
        self._keep_memory_honest()
        self._condition.step = "closing the journal"
        try:
            self._journal.stop(left_s(0.8))  # positions are stored
        except JournalError as error:
            log.error("the journal did not stop cleanly: %s", error)
        self._api_server.stop(left_s(0.5))  # last, so that GET /health tells until the end
        self._client.stop(left_s(0.5))
        self._resolver.stop(0.5)
        self._deadlines.stop(0.5)

    def _keep_memory_honest(self) -> None:
        """A journal in memory forgets what nodes have not got: they are out of sync from now on."""
        if self.config.journal.durability != "none" or self._condition.broken:
            return
        late = [node for node in self._registry.nodes if node.record.active and node.position < self._journal.head]
        for node in late:
            log.error("node %s misses updates that were only in memory: it is out of sync", node.name)
            node.out_of_sync = True
        if late:
            self._registry.save()


def _with_listeners_of(old: Config, new: Config) -> Config:
    """The new configuration, but for what only a restart changes."""
    log_section = msgspec.structs.replace(old.log, level=new.log.level, access=new.log.access)
    return msgspec.structs.replace(
        new, host=old.host, port=old.port, api=old.api, state_dir=old.state_dir, journal=old.journal, log=log_section
    )


def _server_limits(config: Config) -> ServerLimits:
    limits = config.limits
    return ServerLimits(limits.head, limits.headers, limits.body, limits.connections)


def _api_limits(config: Config) -> ServerLimits:
    return ServerLimits(config.limits.head, config.limits.headers, ADMIN_BODY_BYTES, ADMIN_CONNECTIONS)


def _server_timeouts(config: Config) -> ServerTimeouts:
    timeouts = config.timeouts
    return ServerTimeouts(timeouts.head, timeouts.body, timeouts.idle, timeouts.send)


def log_access(request: Request, status: int, seconds: float) -> None:
    """One line per request; the query string may hold secrets and stays out."""
    path = request.head.target.partition(b"?")[0].decode("latin-1")
    method = request.head.method.decode("latin-1")
    log.info("%s %s %s %d %.1f ms", request.peer, method, path, status, seconds * 1000)
