"""Service files: written whole, undone when something fails, and gone after ``remove``; below a root of their own.

What init systems make of them is shown on machines that boot (``tests/e2e/machines``); here every step can fail.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from spawn.config import Config
from spawn.errors import ConfigError
from spawnctl import install, installed, purge, systemd, sysv
from spawnctl.machine import ControlError, Init, Machine
from spawnctl.systemd import Systemd
from spawnctl.usage import parse

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files are given to other users: needs root")

PYTHON = "/opt/spawn/bin/python"
OURS = ["etc/spawn/README", "etc/spawn/spawn.conf"]
DOCUMENTS = [
    "usr/local/share/bash-completion/completions/spawnctl",
    "usr/local/share/man/man8/spawnctl.8",
    "usr/local/share/zsh/site-functions/_spawnctl",
]


class Recorder:
    """Stands for the system's programs: notes what is run, fails what it was told to fail, and knows of users."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.failing = ""
        self.code = 1
        self.missing = ""
        self.shown = {"MainPID": "0", "ActiveState": "inactive"}
        self.user: pwd.struct_passwd | None = None

    def __call__(self, command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        line = " ".join(command)
        self.commands.append(line)
        if self.missing and command[0] == self.missing:
            return subprocess.CompletedProcess(list(command), 127, "", "not found")
        if self.failing and self.failing in line:
            return subprocess.CompletedProcess(list(command), self.code, "", "no luck\n")
        if command[0] == "useradd":
            self.user = pwd.struct_passwd(("spawn", "x", 54321, 54321, "Spawn Sync Service", "/var/lib/spawn", "/x"))
        if command[0] == "userdel":
            self.user = None
        shown = "".join(f"{name}={value}\n" for name, value in self.shown.items()) if " show " in line else ""
        return subprocess.CompletedProcess(list(command), 0, shown, "")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def machine(root: Path, recorder: Recorder, init: Init, *, uid: int = 0, user: bool = False) -> Machine:
    directories = (
        ["etc/init.d", "var/log", *(f"etc/rc{level}.d" for level in range(7))] if init is not Init.NONE else []
    )
    directories += ["run/systemd/system"] if init is Init.SYSTEMD else []
    for name in directories:
        (root / name).mkdir(parents=True, exist_ok=True)
    if init is Init.SYSV:
        (root / "etc/inittab").touch()
    home = {"HOME": str(root / "home/somebody")}
    return Machine(root, recorder, PYTHON, uid, lambda name: recorder.user, home, user)


def put(machine: Machine, *options: str) -> list[str]:
    return install.install(machine, install.plan(machine, parse(["install", *options], "")))


def files(root: Path) -> list[str]:
    found = (path for path in root.rglob("*") if not path.is_dir() or path.is_symlink())
    return sorted(str(path.relative_to(root)) for path in found if path.name != "inittab")


def test_systemd_gets_a_unit_that_names_interpreter_and_options(tmp_path: Path, recorder: Recorder) -> None:
    here = machine(tmp_path, recorder, Init.SYSTEMD)
    put(here, "--port=7", '--check-regexp=^a b\\"$%')
    assert files(tmp_path) == sorted([*OURS, *DOCUMENTS, "etc/systemd/system/spawn.service"])
    text = here.unit_file.read_text()
    start = next(line for line in text.splitlines() if line.startswith("ExecStart="))
    assert start == (
        f"ExecStart={PYTHON} -P -m spawnctl --config=/etc/spawn/spawn.conf "
        r'--port=7 "--check-regexp=^a b\\\"$$%%"'
    )  # systemd.service(5): quotes, backslashes, specifiers and variables are escaped
    assert "@" not in text.replace("@system-service", "").replace("@privileged @resources", "")
    assert recorder.commands[-2:] == ["systemctl daemon-reload", "systemctl enable spawn.service"]
    assert here.installed() is Init.SYSTEMD
    assert installed.options(here) == ["--config=/etc/spawn/spawn.conf", "--port=7", '--check-regexp=^a b\\"$%']


@pytest.mark.parametrize("options", [(), ("--port=80",), ("--api-port=1023",), ("--port=1024",)])
def test_only_a_port_below_1024_asks_for_a_capability(tmp_path: Path, recorder: Recorder, options: list[str]) -> None:
    here = machine(tmp_path, recorder, Init.SYSTEMD)
    put(here, *options)
    low = options in (("--port=80",), ("--api-port=1023",))
    lines = here.unit_file.read_text().splitlines()
    assert (f"AmbientCapabilities={'CAP_NET_BIND_SERVICE' if low else ''}") in lines
    assert (f"PrivateUsers={'no' if low else 'yes'}") in lines


def test_a_state_directory_elsewhere_is_made_and_may_be_written(tmp_path: Path, recorder: Recorder) -> None:
    here = machine(tmp_path, recorder, Init.SYSTEMD)
    put(here, "--state-dir=/srv/spawn", "--log-file=/var/log/spawn.log")
    assert (tmp_path / "srv/spawn").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "srv/spawn").stat().st_uid == 54321
    lines = here.unit_file.read_text().splitlines()
    assert "ReadWritePaths=/srv/spawn" in lines
    assert "ReadWritePaths=/var/log" in lines
    assert (tmp_path / "var/log/spawn.log").stat().st_mode & 0o777 == 0o640
    assert "USR1" in (tmp_path / "etc/logrotate.d/spawn").read_text()


@pytest.mark.parametrize("option", ["--state-dir=/tmp/spawn", "--log-file=/var/tmp/log", "--config={tmp}/spawn.conf"])
def test_what_the_service_would_not_see_is_refused(tmp_path: Path, recorder: Recorder, option: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as hidden:
        Path(hidden, "spawn.conf").write_text("{}")
        with pytest.raises(ControlError, match="where the service sees nothing but files of its own"):
            put(machine(tmp_path, recorder, Init.SYSTEMD), option.format(tmp=hidden))
    assert recorder.commands == []


def test_a_faulty_option_is_told_before_anything_is_done(tmp_path: Path, recorder: Recorder) -> None:
    with pytest.raises(ConfigError):
        put(machine(tmp_path, recorder, Init.SYSTEMD), "--port=0")
    assert (files(tmp_path), recorder.commands) == ([], [])


def test_the_user_of_the_service_is_made_once(tmp_path: Path, recorder: Recorder) -> None:
    recorder.user = pwd.struct_passwd(("spawn", "x", 54321, 54321, "somebody", "/", "/x"))
    put(machine(tmp_path, recorder, Init.SYSTEMD))
    [trial] = [command for command in recorder.commands if "spawnctl.trial" in command]
    assert "useradd" not in "".join(recorder.commands)
    assert trial.startswith("systemd-run ")
    assert "--property=User=spawn" in trial
    assert "--property=ProtectSystem=strict" in trial, "in the sandbox of the unit"


@pytest.mark.parametrize("failing", ["useradd", "systemd-run", "daemon-reload", "enable"])
def test_a_failed_install_leaves_nothing(tmp_path: Path, recorder: Recorder, failing: str) -> None:
    here = machine(tmp_path, recorder, Init.SYSTEMD)
    recorder.failing = failing
    with pytest.raises(ControlError) as caught:
        put(here)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == []
    assert not (tmp_path / "var/lib/spawn").exists()
    assert ("userdel spawn" in recorder.commands) == (failing != "useradd")


def test_a_file_that_cannot_be_written_undoes_the_rest(tmp_path: Path, recorder: Recorder) -> None:
    here = machine(tmp_path, recorder, Init.SYSV)
    (tmp_path / "etc/logrotate.d").write_text("in the way")
    with pytest.raises(ControlError, match=r"cannot write .*logrotate"):
        put(here)
    assert files(tmp_path) == ["etc/logrotate.d"]
    assert recorder.user is None


def test_an_interpreter_that_the_service_cannot_run_is_refused(tmp_path: Path, recorder: Recorder) -> None:
    recorder.failing = "systemd-run"
    with pytest.raises(ControlError, match=f"cannot run {PYTHON}: install Spawn where"):
        put(machine(tmp_path, recorder, Init.SYSTEMD))


def test_faults_that_the_service_would_meet_are_faults_of_the_configuration(tmp_path: Path, recorder: Recorder) -> None:
    recorder.failing, recorder.code = "systemd-run", 2
    with pytest.raises(ConfigError) as caught:
        put(machine(tmp_path, recorder, Init.SYSTEMD))
    assert caught.value.faults == ["no luck (asked as the service's user 'spawn')"]


@pytest.mark.parametrize("has_tool", [True, False])
def test_sysv_gets_a_script_its_options_and_links(tmp_path: Path, recorder: Recorder, has_tool: bool) -> None:
    here = machine(tmp_path, recorder, Init.SYSV)
    recorder.missing = "" if has_tool else "update-rc.d"
    put(here, "--port=7", "--check-regexp=a b 'c'")
    assert here.script.stat().st_mode & 0o777 == 0o755
    assert installed.options(here) == ["--config=/etc/spawn/spawn.conf", "--port=7", "--check-regexp=a b 'c'"]
    assert "update-rc.d spawn defaults" in recorder.commands
    assert (tmp_path / "etc/rc3.d/S87spawn").is_symlink() != has_tool
    if not has_tool:
        assert (tmp_path / "etc/rc0.d/K17spawn").resolve() == here.script
    assert subprocess.run(["sh", "-n", here.script], check=False).returncode == 0
    assert "@" not in here.script.read_text()
    assert (tmp_path / "etc/logrotate.d/spawn").exists()


@pytest.mark.parametrize("init", [Init.SYSTEMD, Init.SYSV])
def test_remove_deletes_what_install_wrote_but_not_the_configuration(
    tmp_path: Path, recorder: Recorder, init: Init
) -> None:
    here = machine(tmp_path, recorder, init)
    recorder.missing = "update-rc.d"
    put(here, "--port=7")
    stopped: list[bool] = []
    install.remove(here, lambda: stopped.append(True))
    left = ["etc/spawn/removed.options", "etc/spawn/spawn.conf"] + (["var/log/spawn.log"] if init is Init.SYSV else [])
    assert files(tmp_path) == left
    assert here.installed() is Init.NONE
    assert stopped
    assert recorder.user is not None, "the journal is still its"


@pytest.mark.parametrize("init", [Init.SYSTEMD, Init.SYSV])
def test_purge_leaves_nothing(tmp_path: Path, recorder: Recorder, init: Init) -> None:
    here = machine(tmp_path, recorder, init)
    put(here)
    for name in ("lock", "nodes.json"):
        (tmp_path / "var/lib/spawn" / name).touch()
    (tmp_path / "var/log/spawn.log.1.gz").touch()
    found = purge.find(here)
    install.remove(here, lambda: None)
    purge.purge(here, found)
    assert files(tmp_path) == []
    assert not (tmp_path / "var/lib/spawn").exists()
    assert recorder.user is None


def test_purge_spares_what_is_not_spawns(tmp_path: Path, recorder: Recorder) -> None:
    """A configuration may name any directory, and the account may have been there before."""
    recorder.user = pwd.struct_passwd(("spawn", "x", 54321, 54321, "A Person", "/", "/x"))
    here = machine(tmp_path, recorder, Init.SYSTEMD)
    put(here)
    (tmp_path / "var/lib/spawn/cat.jpg").touch()
    found = purge.find(here)
    install.remove(here, lambda: None)
    purge.purge(here, found)
    assert files(tmp_path) == ["var/lib/spawn/cat.jpg"]
    assert recorder.user is not None


@pytest.mark.parametrize("init", [Init.SYSTEMD, Init.SYSV])
def test_a_configuration_that_is_there_stays(tmp_path: Path, recorder: Recorder, init: Init) -> None:
    here = machine(tmp_path, recorder, init)
    here.config_file.parent.mkdir(parents=True)
    here.config_file.write_text("{}")
    put(here)
    assert here.config_file.read_text() == "{}"


def test_the_example_configuration_is_valid() -> None:
    from spawn.config import load

    path = Path(install.__file__).parent / "init" / "spawn.conf"
    assert load(str(path)).config.nodes == ()


@pytest.mark.parametrize("init", [Init.SYSTEMD, Init.SYSV])
def test_messages_of_the_original(tmp_path: Path, recorder: Recorder, init: Init) -> None:
    here = machine(tmp_path, recorder, init)
    with pytest.raises(ControlError, match=r"^Service is not installed$"):
        install.remove(here, lambda: None)
    put(here)
    with pytest.raises(ControlError, match=r"^Service has already been installed$"):
        put(here)


def test_install_and_remove_need_root(tmp_path: Path, recorder: Recorder) -> None:
    here = machine(tmp_path, recorder, Init.SYSTEMD, uid=1000)
    for attempt in (lambda: put(here), lambda: install.remove(here, lambda: None)):
        with pytest.raises(ControlError, match=r"^You must have root user privileges"):
            attempt()
    assert recorder.commands == []


def test_a_machine_without_an_init_system_is_told_what_works(tmp_path: Path, recorder: Recorder) -> None:
    here = machine(tmp_path, recorder, Init.NONE)
    (tmp_path / "etc/init.d").mkdir(parents=True)  # as in a container
    with pytest.raises(ControlError, match="'spawnctl start' works without one"):
        put(here)


def test_a_users_own_service(tmp_path: Path, recorder: Recorder) -> None:
    here = machine(tmp_path, recorder, Init.SYSTEMD, uid=os.getuid(), user=True)
    assert put(here) == [install.LINGER]
    home = "home/somebody"
    share = [name.replace("usr/local", f"{home}/.local") for name in DOCUMENTS]
    own = [
        f"{home}/.config/spawn/README",
        f"{home}/.config/spawn/spawn.conf",
        f"{home}/.config/systemd/user/spawn.service",
    ]
    assert files(tmp_path) == sorted([*share, *own])
    assert all(command.startswith("systemctl --user ") for command in recorder.commands)
    assert "User=" not in here.unit_file.read_text()
    install.remove(here, lambda: None)
    assert files(tmp_path) == [f"{home}/.config/spawn/removed.options", f"{home}/.config/spawn/spawn.conf"]


def test_a_user_whose_systemd_does_not_answer_is_told_so(tmp_path: Path, recorder: Recorder) -> None:
    recorder.failing = "show-environment"
    with pytest.raises(ControlError, match=r"no systemd of this user answers \(systemctl show-environment: no luck\)"):
        put(machine(tmp_path, recorder, Init.SYSTEMD, uid=1000, user=True))


def test_start_and_stop_of_a_systemd_service(tmp_path: Path, recorder: Recorder) -> None:
    service = Systemd(machine(tmp_path, recorder, Init.SYSTEMD))
    service.start()
    with pytest.raises(ControlError, match="already been stopped"):
        service.stop()
    recorder.shown = {"MainPID": "77", "ActiveState": "active"}
    assert service.pid() == 77
    with pytest.raises(ControlError, match="already running"):
        service.start()
    service.stop()
    assert "systemctl stop spawn.service" in recorder.commands


def test_a_stop_that_had_to_kill_is_no_success(tmp_path: Path, recorder: Recorder) -> None:
    recorder.shown = {"MainPID": "77", "ActiveState": "active", "Result": "timeout"}
    with pytest.raises(ControlError, match=r"did not end in order \(timeout\)"):
        Systemd(machine(tmp_path, recorder, Init.SYSTEMD)).stop()


def test_a_start_that_fails_shows_the_journal_and_is_not_tried_again(tmp_path: Path, recorder: Recorder) -> None:
    recorder.failing = "systemctl start"
    with pytest.raises(ControlError, match="the service did not start"):
        Systemd(machine(tmp_path, recorder, Init.SYSTEMD)).start()
    assert any(command.startswith("journalctl") for command in recorder.commands)
    assert recorder.commands[-1] == "systemctl stop spawn.service"


def test_a_backup_is_started_by_systemd_with_restored_once(tmp_path: Path, recorder: Recorder) -> None:
    here = machine(tmp_path, recorder, Init.SYSTEMD)
    put(here, "--port=7")
    seen: list[str] = []
    drop_in = tmp_path / "run/systemd/system/spawn.service.d/restored.conf"

    def run(command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        if command[1] == "start":
            seen.append(drop_in.read_text())
        return recorder(command, timeout_s)

    asked = Machine(here.root, run, here.python, 0, here.account, here.environ)
    Systemd(asked).start([*installed.command(here), "--restored"])
    assert (
        f"ExecStart=\nExecStart={PYTHON} -P -m spawnctl --config=/etc/spawn/spawn.conf --port=7 --restored\n" in seen[0]
    )
    assert not drop_in.parent.exists()
    assert recorder.commands[-1] == "systemctl daemon-reload"


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (["/opt/spawn/bin/python3", "-P", "-m", "spawnctl", "--port=7"], ["--port=7"]),
        (["/usr/bin/python3", "/opt/spawn/bin/spawnctl", "--port=7"], ["--port=7"]),
        (["/bin/other", "--port=7"], []),
    ],
)
def test_options_are_what_follows_the_command(command: list[str], options: list[str]) -> None:
    assert installed.options_in(command) == options


@pytest.mark.parametrize("word", ["", "a b", '"', "$HOME", "100%", "a\\b", "'", "x;y"])
def test_words_survive_a_unit(word: str) -> None:
    assert systemd.command_of(f"ExecStart={systemd.quoted(['/bin/x', word])}\n") == ["/bin/x", word]


def test_a_unit_has_no_place_left_open() -> None:
    unit = systemd.render_unit(["/bin/x", "spawnctl"], Config(), Path("/srv/a$ b%"), [Path("/home/x")], [])
    assert 'ReadWritePaths="/srv/a$ b%%"\nReadWritePaths=/home/x\n' in unit  # no variables in a path
    assert "StateDirectory=" not in unit
    assert "ProtectHome=read-only" in unit
    assert sysv.render_script("/opt/it's/python").count("'/opt/it'\"'\"'s/python'") == 1


def test_the_unit_says_what_operators_were_promised() -> None:
    """``docs/operations.md``; what systemd makes of it is shown on machines that boot."""
    unit = systemd.render_unit(["/bin/x", "spawnctl", "--port=7"], Config(), systemd.STATE_DIR, [], [])
    promised = """
        Type=notify NotifyAccess=main Restart=on-failure RestartSec=2 RestartPreventExitStatus=2 StartLimitBurst=20
        StartLimitIntervalSec=300 WatchdogSec=90 TimeoutStartSec=90 TimeoutStopSec=45 LimitNOFILE=65536 LimitCORE=0
        User=spawn Group=spawn StateDirectory=spawn StateDirectoryMode=0700 UMask=0027 NoNewPrivileges=yes
        ProtectSystem=strict ProtectHome=yes PrivateTmp=yes PrivateDevices=yes ProtectProc=invisible
        MemoryDenyWriteExecute=yes RestrictNamespaces=yes CapabilityBoundingSet= AmbientCapabilities=
    """
    assert set(promised.split()) <= set(unit.splitlines())
    reload = [line.partition("=")[2] for line in unit.splitlines() if line.startswith("ExecReload=")]
    assert reload == ["/bin/x spawnctl check --port=7", "/bin/kill -HUP $MAINPID"]
    user = systemd.render_user_unit(["/bin/x", "spawnctl"])
    assert {"Type=notify", "Restart=on-failure", "WatchdogSec=90", "WantedBy=default.target"} <= set(user.splitlines())


def test_a_state_that_root_has_begun_becomes_the_services(tmp_path: Path, recorder: Recorder) -> None:
    here = machine(tmp_path, recorder, Init.SYSTEMD)
    state = tmp_path / "var/lib/spawn"
    (state / "journal").mkdir(parents=True)
    for name in ("lock", "nodes.json", "journal/journal.db"):
        (state / name).touch()
    put(here)
    assert {path.stat().st_uid for path in (state, *state.rglob("*"))} == {54321}


def test_a_failed_install_gives_it_back(tmp_path: Path, recorder: Recorder) -> None:
    here = machine(tmp_path, recorder, Init.SYSTEMD)
    (tmp_path / "var/lib/spawn").mkdir(parents=True)
    recorder.failing = "enable"
    with pytest.raises(ControlError):
        put(here)
    assert (tmp_path / "var/lib/spawn").stat().st_uid == 0


def test_the_example_is_for_the_service_and_root_alone(tmp_path: Path, recorder: Recorder) -> None:
    put(machine(tmp_path, recorder, Init.SYSTEMD))
    found = (tmp_path / "etc/spawn/spawn.conf").stat()
    assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o640, 0, 54321)


@pytest.mark.parametrize(("uid", "gid", "mode", "su"), [(0, 0, 0o755, ""), (54321, 54321, 0o755, "su spawn "),
                                                        (0, 4, 0o2775, "su root adm")])  # fmt: skip
def test_logrotate_is_told_as_whom_where_it_would_refuse(
    tmp_path: Path, recorder: Recorder, uid: int, gid: int, mode: int, su: str
) -> None:
    if gid == 54321:
        gid = 1  # a group that has a name
    logs = tmp_path / "srv/logs"
    logs.mkdir(parents=True)
    os.chown(logs, uid, gid)
    logs.chmod(mode)
    recorder.user = pwd.struct_passwd(("spawn", "x", 54321, 54321, "Spawn Sync Service", "/", "/x"))
    told = install.run_as(machine(tmp_path, recorder, Init.SYSTEMD), Path("/srv/logs"))
    assert told.strip().startswith(su.strip())
    assert bool(told) == bool(su)
