"""Test mode (``spawnctl -t``): Spawn in the foreground with a state that is thrown away.

With nodes in the configuration it is a rehearsal with those. Without any it starts three sandbox nodes and prints five
commands that show what Spawn does. A rehearsal that ends with anything unsettled (updates still queued or refused, a
node out of sync) keeps its directory and says how to go on: these updates were acknowledged, and the nodes are real.
"""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from spawn.config import Config
from spawn.config.schema import HealthCheckConfig, NodeConfig, QueryMode
from spawn.errors import StartError
from spawnctl import foreground, usage
from spawnctl.foreground import Plan
from spawnctl.output import say
from spawnctl.sandbox import Sandbox

if TYPE_CHECKING:
    from spawn.service import Service

SANDBOX_CHECK = HealthCheckConfig(seconds=1.0, url="/info", regexp="^version:[0-9]+$")

GUIDE = """\
Spawn runs in test mode. Proxy: {proxy}  API: {api}
Its nodes: {nodes}
Paste these commands into another terminal, in order. Ctrl-C here ends everything.

# 1. Create an item through Spawn: the answer names the id that every node gives it.
curl -s -X POST {proxy}/items -d '{{"name": "first"}}'
# 2. Ask the three nodes themselves: the same item, under the same id.
curl -s {node1}/items {node2}/items {node3}/items
# 3. Put node 3 in maintenance and store a colour: nodes 1 and 2 get it, for node 3 it is queued.
curl -s -X PUT {control} -d '{{"maintenance": true}}' -w '\\n'; curl -s -X PUT {proxy}/items/colour -d blue
# 4. Look at the queue, with a backlog of 1, and at node 3, which has no colour yet.
curl -s '{queue}?pretty=true' -w '\\n'; curl -s {node3}/items/colour
# 5. End the maintenance: node 3 catches up by itself, and two seconds later has the colour.
curl -s -X PUT {control} -d '{{"maintenance": false}}' -w '\\n'; sleep 2; curl -s {node3}/items/colour
"""


def run(plan: Plan) -> int:
    """Run test mode until Ctrl-C or SIGTERM.

    :return: the exit code of the process.
    :raises StartError: Spawn or a sandbox node cannot start.
    """
    directory: Path | None = None
    left: dict[str, str] = {}
    asked = plan
    code = 0
    _heed_termination()
    try:
        # Held back, or a signal between the making of the directory and its name here would leave it behind.
        signal.pthread_sigmask(signal.SIG_BLOCK, foreground.STOP_SIGNALS)
        try:
            directory = _make_directory()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, foreground.STOP_SIGNALS)
        plan = _for_the_terminal(plan, directory)
        code = _rehearse(plan, left) if plan.config.nodes else _play(plan)
    except KeyboardInterrupt:  # before the service handled it
        pass
    finally:
        foreground.end_undisturbed()
        if directory and not left:
            shutil.rmtree(directory, ignore_errors=True)
    _say_farewell(left, _continuation(asked, directory))
    return code


def _make_directory() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="spawn-test-"))
    except OSError as error:
        raise StartError(f"no temporary directory for test mode: {error}") from None


def _heed_termination() -> None:
    """Let SIGTERM end what the service does not handle yet like Ctrl-C, so that the directory goes."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored


def _for_the_terminal(plan: Plan, directory: Path) -> Plan:
    """The state goes to the directory, the log to the terminal, whatever the configuration says."""
    warnings = list(plan.warnings)
    if plan.config.log.file:
        warnings.append(f"test mode logs to the terminal, not to {plan.config.log.file}")
    if plan.config.state_dir:
        warnings.append(f"test mode keeps its state in {directory}, not in {plan.config.state_dir}")
    log = msgspec.structs.replace(plan.config.log, format="text", file="")
    overrides = {**plan.overrides, "state-dir": str(directory), "log.format": "text", "log.file": ""}
    config = msgspec.structs.replace(plan.config, log=log, state_dir=str(directory))
    return dataclasses.replace(plan, config=config, state_dir=directory, overrides=overrides, warnings=tuple(warnings))


def _rehearse(plan: Plan, left: dict[str, str]) -> int:
    """Run with the configured nodes; fills ``left`` with what remains unsettled, by node."""

    def on_ready(service: Service) -> None:
        nodes = ", ".join(f"{node.host}:{node.port}" for node in plan.config.nodes)
        print(f"Spawn rehearses with {nodes}. Ctrl-C ends it.")
        print(f"Proxy: {_url(service.proxy_address)}  API: {_url(service.api_address)}", flush=True)

    def on_stopped(service: Service) -> None:
        left.update(service.unsettled())

    return foreground.serve(plan, on_ready, on_stopped)


def _play(plan: Plan) -> int:
    """Run with three sandbox nodes of our own."""
    sandbox = Sandbox()
    try:
        sandbox.start()
        config = sandbox_config(plan.config, sandbox.addresses)
        # Without a path a reload has nothing to read: the file that names no nodes would not fit these.
        plan = dataclasses.replace(plan, config=config, config_path=None)

        def on_ready(service: Service) -> None:
            print(guide(service.proxy_address, service.api_address, sandbox.addresses), flush=True)

        return foreground.serve(plan, on_ready)
    finally:
        foreground.end_undisturbed()
        sandbox.stop()


def sandbox_config(config: Config, addresses: Sequence[tuple[str, int]]) -> Config:
    """The user's configuration with the sandbox nodes in it; what the user did set about checks and reads stays."""
    nodes = tuple(NodeConfig(host=host, port=port, priority=index + 1) for index, (host, port) in enumerate(addresses))
    check = SANDBOX_CHECK if config.health_check == HealthCheckConfig() else config.health_check
    mode = QueryMode(round_robin=True) if config.query_mode == QueryMode() else config.query_mode
    return msgspec.structs.replace(config, nodes=nodes, health_check=check, query_mode=mode)


def guide(proxy: tuple[str, int], api: tuple[str, int], nodes: Sequence[tuple[str, int]]) -> str:
    """The text that greets the user of the sandbox: addresses, and five commands that work when they are pasted."""
    urls = [_url(node) for node in nodes]
    host3, port3 = nodes[2]
    return GUIDE.format(
        proxy=_url(proxy),
        api=_url(api),
        nodes=", ".join(urls),
        node1=urls[0],
        node2=urls[1],
        node3=urls[2],
        control=f"{_url(api)}/nodes/{host3}/{port3}",
        queue=f"{_url(api)}/queues/{host3}/{port3}",
    )


def _url(address: tuple[str, int]) -> str:
    """How curl on this machine reaches a listener: one on every address is reached on the loopback."""
    host, port = address
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _continuation(plan: Plan, directory: Path | None) -> str:
    """The command that goes on with the state of a rehearsal, to be pasted into a shell."""
    words = [f"--config={plan.config_path}"] if plan.config_path else []
    for flag, key in usage.OVERRIDES.items():
        if key in plan.overrides and key != "state-dir":
            words.append(flag if flag in usage.SWITCHES else f"{flag}={plan.overrides[key]}")
    return shlex.join(["spawnctl", *words, f"--state-dir={directory}"])


def _say_farewell(left: dict[str, str], continuation: str) -> None:
    if not left:
        say("Test mode has ended; its state is removed.")
        return
    say("Test mode has ended, but not everything is settled:")
    for node, reason in sorted(left.items()):
        say(f"  {node} {reason}")
    say("Its state is kept. This goes on with it (move the directory first if a reboot may come between):")
    say(f"  {continuation}")
