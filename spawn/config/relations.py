"""What single values of a configuration cannot say: whether they fit each other. Pure, on a draft of ``shape``.

A value that was faulty by itself is ``INVALID`` and takes part in nothing here, so that one mistake is one line.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from spawn.config import addresses
from spawn.config.document import Fault, shortened
from spawn.config.schema import Config
from spawn.config.shape import INVALID, without_effect

_DEFAULTS = msgspec.to_builtins(Config())
_Place = tuple[str, int]


def faults(draft: Mapping[str, Any]) -> list[Fault]:
    """Every contradiction between valid values."""
    return [*_listeners(draft), *_equal_nodes(draft), *_own_nodes(draft)]


def warnings(draft: Mapping[str, Any]) -> list[tuple[tuple[str | int, ...], str]]:
    """What can be used but is probably not meant: path and text."""
    found: list[tuple[tuple[str | int, ...], str]] = [
        ((key,), "accepted because the original knew it; it has no effect yet")
        for key in without_effect()
        if key in draft
    ]
    nodes = {_key(host, port) for _, host, port in _nodes(draft)}
    for name in _value(draft, "delivery", "set-headers"):
        host, _, port = name.rpartition(":")
        if _key(host, int(port)) not in nodes:
            found.append(
                (("delivery", "set-headers", name), "names no node of this file; used once such a node is added")
            )
    for index, network in enumerate(_value(draft, "trusted-proxies")):
        if network is not INVALID and ipaddress.ip_network(network).prefixlen == 0:
            found.append((("trusted-proxies", index), "every client is believed about its X-Forwarded-* headers"))
    for index, rule in enumerate(_value(draft, "rules")):
        method = rule.get("method", "") if rule is not INVALID else ""
        if method is not INVALID and method != method.upper():
            path = ("rules", index, "method")
            found.append((path, f'methods are case-sensitive; "{shortened(method.upper())}" is probably meant'))
    return found


def named_like_nodes(draft: dict[str, Any]) -> None:
    """Write the keys of ``delivery.set-headers`` as the file's nodes are written, so that they can be looked up."""
    names = {_key(host, port): addresses.authority(host, port) for _, host, port in _nodes(draft)}
    delivery = draft.get("delivery")
    if not isinstance(delivery, dict) or not isinstance(delivery.get("set-headers"), dict):
        return
    renamed = {}
    for name, headers in delivery["set-headers"].items():
        host, _, port = name.rpartition(":")
        renamed[names.get(_key(host, int(port)), name)] = headers
    delivery["set-headers"] = renamed


def _listeners(draft: Mapping[str, Any]) -> Iterator[Fault]:
    (host, port), (api_host, api_port) = _proxy(draft), _api(draft)
    if INVALID in (host, port, api_host, api_port) or port != api_port:
        return
    if addresses.listeners_collide(host, api_host):
        yield Fault(("api", "port"), f"the proxy and the API cannot both listen on port {port}")


def _equal_nodes(draft: Mapping[str, Any]) -> Iterator[Fault]:
    first: dict[_Place, int] = {}
    for index, host, port in _nodes(draft):
        earlier = first.setdefault(_key(host, port), index)
        if earlier != index:
            yield Fault(("nodes", index), f"the same node as nodes[{earlier}] ({addresses.authority(host, port)})")


def _own_nodes(draft: Mapping[str, Any]) -> Iterator[Fault]:
    listeners = [("proxy", *_proxy(draft)), ("API", *_api(draft))]
    for index, host, port in _nodes(draft):
        for name, own_host, own_port in listeners:
            if INVALID in (own_host, own_port) or port != own_port or not addresses.reaches_listener(host, own_host):
                continue
            yield Fault(("nodes", index), f"{addresses.authority(host, port)} is Spawn's own {name} port")
            break


def _nodes(draft: Mapping[str, Any]) -> Iterator[tuple[int, str, int]]:
    """The usable nodes with their index."""
    for index, node in enumerate(_value(draft, "nodes")):
        if node is not INVALID and INVALID not in (node["host"], node["port"]):
            yield index, node["host"], node["port"]


def _proxy(draft: Mapping[str, Any]) -> tuple[Any, Any]:
    return draft.get("host", _DEFAULTS["host"]), draft.get("port", _DEFAULTS["port"])


def _api(draft: Mapping[str, Any]) -> tuple[Any, Any]:
    api = draft.get("api", {})
    if api is INVALID:
        return INVALID, INVALID
    return api.get("host", _DEFAULTS["api"]["host"]), api.get("port", _DEFAULTS["api"]["port"])


def _value(draft: Mapping[str, Any], *path: str) -> Any:
    """What the draft has at the path, empty where it has nothing usable."""
    value: Any = draft
    for step in path:
        value = value.get(step, {}) if isinstance(value, dict) else {}
    return value if value is not INVALID else {}


def _key(host: str, port: int) -> _Place:
    return addresses.host_key(host), port
