"""What reading the configuration again means for a running service."""

from __future__ import annotations

import msgspec
import pytest

from spawn.config import Config, changes
from spawn.config.reload import LIVE, Reload, is_live
from spawn.config.schema import (
    ApiConfig,
    DeliveryConfig,
    HealthCheckConfig,
    JournalConfig,
    Limits,
    LogConfig,
    NodeConfig,
    QueryMode,
    RuleConfig,
    Timeouts,
)
from spawn.config.shape import find


def test_the_same_configuration_changes_nothing() -> None:
    assert changes(Config(), Config()) == Reload()
    assert not changes(Config(), Config())


@pytest.mark.parametrize(
    ("new", "slice_"),
    [
        (Config(query_mode=QueryMode(round_robin=True)), "query-mode"),
        (Config(health_check=HealthCheckConfig(url="/x")), "health-check"),
        (Config(rules=(RuleConfig(url="x", as_="read"),)), "rules"),
        (Config(consistency="any"), "consistency"),
        (Config(trusted_proxies=("::1/128",)), "trusted-proxies"),
        (Config(on_divergence="isolate"), "on-divergence"),
        (Config(log=LogConfig(level="debug")), "log.level"),
        (Config(log=LogConfig(access=True)), "log.access"),
        (Config(timeouts=Timeouts(head=1.0)), "timeouts"),
        (Config(limits=Limits(lag=1)), "limits"),
        (Config(delivery=DeliveryConfig(set_headers={"a:1": {"X": "y"}})), "delivery"),
    ],
)
def test_a_live_key_takes_effect_at_once(new: Config, slice_: str) -> None:
    assert changes(Config(), new) == Reload(live=(slice_,))


@pytest.mark.parametrize(
    ("new", "keys"),
    [
        (Config(host="::1", port=1), ("host", "port")),
        (Config(api=ApiConfig(host="::1", port=1, hosts=("a",), origins=("http://a",))), None),
        (Config(state_dir="/x"), ("state-dir",)),
        (Config(journal=JournalConfig(max_bytes=1, retain=1.0)), ("journal.max-bytes", "journal.retain")),
        (Config(log=LogConfig(file="/x", format="json")), ("log.format", "log.file")),
    ],
)
def test_any_other_key_waits_for_a_restart(new: Config, keys: tuple[str, ...] | None) -> None:
    reload = changes(Config(), new)
    assert reload.restart == (keys or ("api.host", "api.port", "api.hosts", "api.origins"))
    assert reload.live == ()


def test_keys_without_effect_have_none_after_a_change() -> None:
    assert not changes(Config(), Config(test_mode=True, auth={"a": 1}))


def test_nodes_new_in_the_file_are_told_and_those_an_operator_deleted_are_not() -> None:
    old = Config(nodes=(NodeConfig(host="a", port=1),))
    kept, deleted, fresh = (NodeConfig(host=host, port=1) for host in ("A", "gone", "::2"))
    new = Config(nodes=(kept, deleted, fresh))
    assert changes(old, new, ["a:1", "gone:1"]).new_nodes == (fresh,)
    assert changes(old, new).new_nodes == (deleted, fresh)
    assert changes(old, new, ["a:1", "GONE.:1", "[::2]:1"]) == Reload()


def test_a_known_node_with_other_fields_is_not_new() -> None:
    old, new = (Config(nodes=(NodeConfig(host="a", port=1, priority=p),)) for p in (1, 2))
    assert not changes(old, new)


def test_every_live_key_exists() -> None:
    assert all(find(key.split(".")) is not None for key in LIVE)
    assert is_live("timeouts.head")
    assert not is_live("log.file")
    assert not is_live("port")


def test_several_changes_are_told_together() -> None:
    new = msgspec.structs.replace(Config(), port=1, timeouts=Timeouts(head=1.0), limits=Limits(body=1))
    assert changes(Config(), new) == Reload(live=("timeouts", "limits"), restart=("port",))
