"""Service files: written whole, undone when something fails, and gone after ``remove``; below a root of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from spawnctl import control, unit
from spawnctl.unit import Init, Machine, UnitError
from spawnctl.usage import parse


class Recorder:
    """Stands for the system's programs: notes what is run, fails what it was told to fail."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.failing = ""
        self.main_pid = "0"

    def __call__(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        line = " ".join(command)
        self.commands.append(line)
        fails = bool(self.failing) and self.failing in line
        shown = f"{self.main_pid}\n" if "MainPID" in line else ""
        return subprocess.CompletedProcess(list(command), int(fails), shown, "no luck\n" if fails else "")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def machine(root: Path, recorder: Recorder, init: Init, *, uid: int = 0, has_user: bool = True) -> Machine:
    if init is Init.SYSTEMD:
        (root / "run/systemd/system").mkdir(parents=True, exist_ok=True)
        (root / "etc/systemd/system").mkdir(parents=True, exist_ok=True)
    if init is not Init.NONE:
        for name in ("init.d", *(f"rc{level}.d" for level in range(7))):
            (root / "etc" / name).mkdir(parents=True, exist_ok=True)
    return Machine(root, recorder, "/opt/spawn/bin/python", uid, lambda name: has_user)


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir() or path.is_symlink())


def test_systemd_gets_a_unit_that_names_interpreter_and_options(tmp_path: Path, recorder: Recorder) -> None:
    here = machine(tmp_path, recorder, Init.SYSTEMD)
    unit.install(here, ["--port=7", '--check-regexp=^a b\\"$%'])
    assert files(tmp_path) == ["etc/spawn/spawn.conf", "etc/systemd/system/spawn.service"]
    text = here.unit_file.read_text()
    start = next(line for line in text.splitlines() if line.startswith("ExecStart="))
    assert start == (
        r'ExecStart=/opt/spawn/bin/python -P -m spawnctl --port=7 "--check-regexp=^a b\\\"$$%%"'
    )  # systemd.service(5): quotes, backslashes, specifiers and variables are escaped
    assert "@" not in text
    assert recorder.commands[-2:] == ["systemctl daemon-reload", "systemctl enable spawn.service"]
    assert here.installed() is Init.SYSTEMD


def test_the_user_of_the_service_is_made_once(tmp_path: Path, recorder: Recorder) -> None:
    unit.install(machine(tmp_path, recorder, Init.SYSTEMD, has_user=False), [])
    assert recorder.commands[0].startswith("useradd --system")
    assert recorder.commands[1].startswith("runuser -u spawn -- /opt/spawn/bin/python")


@pytest.mark.parametrize("failing", ["useradd", "runuser", "daemon-reload", "enable"])
def test_a_failed_install_leaves_nothing(tmp_path: Path, recorder: Recorder, failing: str) -> None:
    here = machine(tmp_path, recorder, Init.SYSTEMD, has_user=False)
    recorder.failing = failing
    with pytest.raises(UnitError) as caught:
        unit.install(here, [])
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == []
    assert ("userdel spawn" in recorder.commands) == (failing != "useradd")


def test_an_interpreter_that_the_service_cannot_run_is_refused(tmp_path: Path, recorder: Recorder) -> None:
    recorder.failing = "runuser"
    with pytest.raises(UnitError, match="cannot run /opt/spawn/bin/python: install Spawn where"):
        unit.install(machine(tmp_path, recorder, Init.SYSTEMD), [])


def test_sysv_gets_a_script_its_options_and_links(tmp_path: Path, recorder: Recorder) -> None:
    here = machine(tmp_path, recorder, Init.SYSV)
    options = ["--port=7", "--check-regexp=a b 'c'"]
    unit.install(here, options)
    assert here.script.stat().st_mode & 0o777 == 0o755
    assert here.options() == options
    assert (tmp_path / "etc/rc3.d/S87spawn").resolve() == here.script
    assert (tmp_path / "etc/rc0.d/K17spawn").resolve() == here.script
    assert subprocess.run(["sh", "-n", here.script], check=False).returncode == 0
    assert "@" not in here.script.read_text()


@pytest.mark.parametrize("init", [Init.SYSTEMD, Init.SYSV])
def test_remove_deletes_what_install_wrote_but_not_the_configuration(
    tmp_path: Path, recorder: Recorder, init: Init
) -> None:
    here = machine(tmp_path, recorder, init)
    unit.install(here, ["--port=7"])
    stopped: list[bool] = []
    unit.remove(here, lambda: stopped.append(True))
    assert files(tmp_path) == ["etc/spawn/spawn.conf"]
    assert here.installed() is Init.NONE
    assert bool(stopped) == (init is Init.SYSV)
    assert ("systemctl disable --now spawn.service" in recorder.commands) == (init is Init.SYSTEMD)


@pytest.mark.parametrize("init", [Init.SYSTEMD, Init.SYSV])
def test_a_configuration_that_is_there_stays(tmp_path: Path, recorder: Recorder, init: Init) -> None:
    here = machine(tmp_path, recorder, init)
    here.config_file.parent.mkdir(parents=True)
    here.config_file.write_text("{}")
    unit.install(here, [])
    assert here.config_file.read_text() == "{}"


def test_the_example_configuration_is_valid() -> None:
    from spawn.config import load

    path = Path(unit.__file__).parent / "init" / "spawn.conf"
    assert load(str(path)).config.nodes == ()


@pytest.mark.parametrize("init", [Init.SYSTEMD, Init.SYSV])
def test_messages_of_the_original(tmp_path: Path, recorder: Recorder, init: Init) -> None:
    here = machine(tmp_path, recorder, init)
    with pytest.raises(UnitError, match=r"^Service is not installed$"):
        unit.remove(here, lambda: None)
    unit.install(here, [])
    with pytest.raises(UnitError, match=r"^Service has already been installed$"):
        unit.install(here, [])


def test_install_and_remove_need_root(tmp_path: Path, recorder: Recorder) -> None:
    here = machine(tmp_path, recorder, Init.SYSTEMD, uid=1000)
    for attempt in (lambda: unit.install(here, []), lambda: unit.remove(here, lambda: None)):
        with pytest.raises(UnitError, match=r"^You must have root user privileges"):
            attempt()
    assert recorder.commands == []


def test_a_machine_without_an_init_system_is_told_what_works(tmp_path: Path, recorder: Recorder) -> None:
    with pytest.raises(UnitError, match="'spawnctl start' works without one"):
        unit.install(machine(tmp_path, recorder, Init.NONE), [])


def test_start_and_stop_of_a_systemd_service(tmp_path: Path, recorder: Recorder) -> None:
    here = machine(tmp_path, recorder, Init.SYSTEMD)
    unit.start_systemd(here)
    with pytest.raises(UnitError, match="already been stopped"):
        unit.stop_systemd(here)
    recorder.main_pid = "77"
    assert unit.systemd_pid(here) == 77
    with pytest.raises(UnitError, match="already running"):
        unit.start_systemd(here)
    unit.stop_systemd(here)
    assert recorder.commands[-1] == "systemctl stop spawn.service"


def test_systemd_is_not_asked_to_start_a_backup(
    tmp_path: Path, recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    here = machine(tmp_path, recorder, Init.SYSTEMD)
    unit.install(here, [])
    recorder.commands.clear()
    assert control.run(parse(["start", "--restored"], ""), here) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "runuser -u spawn -- /opt/spawn/bin/python -P -m spawnctl --restored" in line
    assert recorder.commands == []


def test_a_start_that_fails_shows_the_journal(tmp_path: Path, recorder: Recorder) -> None:
    recorder.failing = "systemctl start"
    with pytest.raises(UnitError, match="no luck"):
        unit.start_systemd(machine(tmp_path, recorder, Init.SYSTEMD))
    assert recorder.commands[-1].startswith("journalctl --unit spawn.service")
