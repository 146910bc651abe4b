"""The command line: what is accepted, what a user who mistyped is told, and which exit code it ends with."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import spawn
from spawn.config import Config
from spawn.config.schema import HealthCheckConfig, QueryMode
from spawnctl import cli, text
from spawnctl.control import outcome
from spawnctl.rehearsal import guide, sandbox_config
from spawnctl.usage import CommandLine, UsageError, parse
from tests.support.spawnctl import environment, spawnctl

SEED_FLAGS = {
    "--host=h": ("host", "h"),
    "--port=1": ("port", "1"),
    "--api-host=h": ("api.host", "h"),
    "--api-port=1": ("api.port", "1"),
    "--round-robin": ("query-mode.round-robin", True),
    "--by-priority": ("query-mode.by-priority", True),
    "--check-sec=1": ("health-check.seconds", "1"),
    "--check-url=/x": ("health-check.url", "/x"),
    "--check-regexp=^a$": ("health-check.regexp", "^a$"),
}


@pytest.mark.parametrize(("flag", "override"), SEED_FLAGS.items())
@pytest.mark.parametrize("command", ["", "install", "check", "-t"])
def test_every_flag_of_the_seed_overrides_its_key(flag: str, override: tuple[str, object], command: str) -> None:
    line = parse([word for word in (command, flag) if word], "")
    assert line.overrides == dict([override])


FOR_INSTALL = "(those of the service are given to 'install')"
FOR_SERVICES = "--user is for a service: it goes with install, remove, start, stop or status"


def test_flags_that_were_not_given_override_nothing() -> None:
    assert parse(["--config=x"], "").overrides == {}


@pytest.mark.parametrize("command", [name for name, command in text.COMMANDS.items() if not command.words])
def test_commands(command: str) -> None:
    assert parse([command], "") == CommandLine(command, False, None, {})


@pytest.mark.parametrize("command", ["install", "remove", "start", "stop", "status"])
def test_a_service_may_be_the_users_own(command: str) -> None:
    line = parse([command, "--user"], "")
    assert line == CommandLine(command, False, None, {}, user=True)
    assert line.as_options() == [], "it is no option of the service"


def test_options_of_a_command_go_together() -> None:
    assert parse(["remove", "--user", "--purge"], "") == CommandLine("remove", False, None, {}, user=True, purge=True)
    assert parse(["--restored", "start", "--user"], "") == CommandLine(
        "start", False, None, {}, restored=True, user=True
    )
    assert parse(["install", "--port=7", "--user"], "").as_options() == ["--port=7"]


def test_restored_is_for_one_start_in_the_foreground_or_the_background() -> None:
    assert [parse(words.split(), "").restored for words in ("--restored", "start --restored", "start", "")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert parse(["--restored", "--port=7"], "").as_options() == ["--port=7"], "it is never installed"


@pytest.mark.parametrize("words", [["--restored"], ["start", "--restored"]])
def test_restored_makes_no_directory_where_there_was_none(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "spawn.conf").write_text(json.dumps({"state-dir": str(tmp_path / "mistyped")}))
    done = spawnctl(*words, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert f"nothing to start as restored: the state directory {tmp_path / 'mistyped'} does not exist" in done.stderr
    assert not (tmp_path / "mistyped").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--prot=7", "unknown option --prot (did you mean --port?)"),
        ("--zzz", "unknown option --zzz"),
        ("-x", "unknown option -x"),
        ("strat", "unknown command 'strat' (did you mean start?)"),
        ("start stop", "one command at a time, not start and stop"),
        ("start --port=1", f"'start' takes no option but --restored and --user {FOR_INSTALL}"),
        ("stop --port=1", f"'stop' takes no option but --user {FOR_INSTALL}"),
        ("remove --host=a", f"'remove' takes no option but --user and --purge {FOR_INSTALL}"),
        ("status -t", "-t is for running in the foreground, it does not go with 'status'"),
        ("--port", "--port needs a value"),
        ("--round-robin=yes", "--round-robin takes no value"),
        ("--port=1 --port=2", "--port is given twice"),
        ("--check=1", "--check could be --check-sec or --check-url or --check-regexp"),
        ("--state-dir=", "--state-dir needs a path, not nothing"),
        ("install --log-file=", "--log-file needs a path, not nothing"),
        ("install --restored", "--restored is for one start, it does not go with 'install'"),
        ("check --restored", "--restored is for one start, it does not go with 'check'"),
        ("stop --restored", "--restored is for one start, it does not go with 'stop'"),
        ("start --restored --port=1", f"'start' takes no option but --restored and --user {FOR_INSTALL}"),
        ("-t --restored", "--restored does not go with -t: test mode begins with an empty state"),
        ("install -t", "-t is for running in the foreground, it does not go with 'install'"),
        ("check -t", "-t is for running in the foreground, it does not go with 'check'"),
        ("--user", f"{FOR_SERVICES}, which has to be named"),
        ("-t --user", f"{FOR_SERVICES}, which has to be named"),
        ("check --user", f"{FOR_SERVICES}, not with 'check'"),
        ("install --user --user", "--user is given twice"),
        ("install --user=me", "--user takes no value"),
        ("--purge", "--purge goes with 'remove' only"),
        ("install --purge", "--purge goes with 'remove' only"),
        ("stop --purge --user", "--purge goes with 'remove' only"),
        ("start now", "unknown command 'now'"),
        ("completion", "'completion' needs to be told which: bash or zsh"),
        ("completion fish", "'completion' is for bash or zsh, not for 'fish'"),
        ("completion bash zsh", "one at a time, not bash and zsh"),
        ("completion bash --port=1", "'completion' takes no options"),
        ("manual --port=1", "'manual' takes no options"),
        ("manual bash", "unknown command 'bash'"),
        ("bash", "unknown command 'bash'"),
    ],
)
def test_a_mistake_is_named_in_one_line(words: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(words.split(), "")
    assert str(caught.value) == reason


def test_a_bad_command_line_exits_2_with_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--prot=7"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"spawnctl: unknown option --prot (did you mean --port?)\n{text.USAGE}\n"


def test_help_is_the_usage_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["-h"])
    assert not caught.value.code
    assert capsys.readouterr().out.strip() == text.TEXT.strip()


def test_version_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["-v"])
    shown = capsys.readouterr().out
    assert re.fullmatch(rf"Spawn Sync Service {re.escape(spawn.__version__)} \d{{4}}-\d\d-\d\d\n", shown)


def test_options_survive_being_written_into_a_service_file() -> None:
    words = ["--config=/a b.conf", "--port=7", "--round-robin", "--check-regexp=^v:[0-9]+$ %", "--state-dir=/s"]
    line = parse(["install", *words], "")
    assert sorted(line.as_options()) == sorted(words)
    assert parse(line.as_options(), "").overrides == line.overrides


def test_paths_of_a_service_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = parse(["install", "--config=a.conf", "--state-dir=s"], "").with_absolute_paths()
    assert line.as_options() == [f"--config={tmp_path}/a.conf", f"--state-dir={tmp_path}/s"]


def test_check_and_start_are_ready_to_fork_they_import_no_gevent(tmp_path: Path) -> None:
    script = (
        "import sys; from spawnctl import cli, control, daemon\n"
        "code = cli.main(['check']); loaded = 'gevent' in sys.modules\n"
        "sys.exit(code or 10 * loaded)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment(tmp_path), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_check_names_the_file_and_its_nodes(tmp_path: Path) -> None:
    (tmp_path / "spawn.conf").write_text('{"nodes": [{"host": "a", "port": 1}], "auth": {}}')
    done = spawnctl("check", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/spawn.conf: valid, 1 node\n")
    assert done.stderr.startswith("warning: ")
    assert "auth" in done.stderr


def test_check_reports_every_fault_and_exits_2(tmp_path: Path) -> None:
    (tmp_path / "spawn.conf").write_text('{"prot": 1, "api": {"port": "x"}}')
    done = spawnctl("check", "--port=99999", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert sum("prot" in line for line in lines) >= 1
    assert any("api.port" in line for line in lines)
    assert any(line.startswith("--port: ") for line in lines)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"log": {"file": "no/such.log"}}, "log.file: {0}/no/such.log cannot be made: {0}/no is no directory"),
        ({"log": {"file": "sub"}}, "log.file: {0}/sub is a directory"),
        ({"state-dir": "spawn.conf"}, "state-dir: {0}/spawn.conf cannot be used: {0}/spawn.conf is not a directory"),
        ({"state-dir": "spawn.conf/a/b"}, "state-dir: {0}/spawn.conf/a/b cannot be used: {0}/spawn.conf is not"),
        ({"state-dir": "/tmp"}, "state-dir: /tmp is shared by all users"),
    ],
)
def test_check_looks_at_the_places_that_are_named(tmp_path: Path, config: dict[str, object], said: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "spawn.conf").write_text(json.dumps(config))
    done = spawnctl("check", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(said.format(tmp_path))


def test_check_makes_nothing(tmp_path: Path) -> None:
    done = spawnctl("check", "--state-dir=a/b", "--log-file=c", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == {"tmp"}, "the test's own"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_check_warns_of_what_another_user_may_be_allowed(tmp_path: Path) -> None:
    done = spawnctl("check", "--state-dir=/usr/a", "--log-file=/usr/c", cwd=tmp_path)
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 2


def test_a_named_configuration_must_exist(tmp_path: Path) -> None:
    done = spawnctl("--config=absent.conf", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "absent.conf" in done.stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_only_on_a_terminal_that_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert outcome(True, Terminal()).endswith("[  \033[32mOK\033[0m  ]")
    assert outcome(False, Terminal()).endswith("[\033[31mFAILED\033[0m]")
    assert outcome(True, io.StringIO()).endswith("[  OK  ]")
    monkeypatch.setenv("NO_COLOR", "1")
    assert outcome(False, Terminal()).endswith("[FAILED]")


def test_the_sandbox_keeps_what_the_user_chose() -> None:
    addresses = [("127.0.0.1", 1), ("127.0.0.1", 2), ("127.0.0.1", 3)]
    plain = sandbox_config(Config(), addresses)
    assert [(node.host, node.port, node.priority) for node in plain.nodes] == [("127.0.0.1", n, n) for n in (1, 2, 3)]
    assert (plain.health_check.url, plain.query_mode) == ("/info", QueryMode(round_robin=True))
    chosen = Config(health_check=HealthCheckConfig(seconds=9), query_mode=QueryMode(by_priority=True))
    assert sandbox_config(chosen, addresses).health_check == chosen.health_check
    assert sandbox_config(chosen, addresses).query_mode == chosen.query_mode


def test_the_guide_shows_five_commands_with_addresses_that_work() -> None:
    text = guide(("0.0.0.0", 7), ("::", 8), [("127.0.0.1", 1), ("127.0.0.1", 2), ("127.0.0.1", 3)])
    commands = [line for line in text.splitlines() if line.startswith("curl ")]
    assert len(commands) == 5
    assert "http://127.0.0.1:7/items" in commands[0]
    assert "http://[::1]:8/nodes/127.0.0.1/3" in commands[2]
    assert "{" not in re.sub(r"-d '[^']*'", "", text)
    assert all(above.startswith("# ") for above, line in zip(text.splitlines(), text.splitlines()[1:], strict=False)
               if line.startswith("curl "))  # fmt: skip
