"""An application that nobody here wrote: three pypiserver processes behind Spawn, used with twine and pip."""

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.cluster import Spawn
from tests.support.processes import ManagedProcess, Processes, clean_environment, free_port, wait_listening

VERSION = "1.0"
MODULE_BYTES = 400_000  # large enough that an upload is more than the journal keeps inline
TOOLS = {
    "PIP_CONFIG_FILE": "/dev/null",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_CACHE_DIR": "1",
    "TWINE_USERNAME": "somebody",
    "TWINE_PASSWORD": "secret",
    "TWINE_NON_INTERACTIVE": "1",
}


def metadata(name: str) -> bytes:
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {VERSION}\nSummary: A test\n\nNothing.\n".encode()


def module(name: str) -> bytes:
    noise = base64.b85encode(hashlib.shake_256(name.encode()).digest(MODULE_BYTES))  # does not compress away
    return b"NOISE = '''" + noise.replace(b"`", b"-") + b"'''\n"


def wheel(name: str, directory: Path) -> Path:
    info = f"{name}-{VERSION}.dist-info"
    files = {
        f"{name}.py": module(name),
        f"{info}/METADATA": metadata(name),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [record_line(path, content) for path, content in files.items()]
    files[f"{info}/RECORD"] = "".join([*lines, f"{info}/RECORD,,\n"]).encode()
    path = directory / f"{name}-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, content in files.items():
            archive.writestr(inside, content)
    return path


def record_line(path: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(content)}\n"


def sdist(name: str, directory: Path) -> Path:
    path = directory / f"{name}-{VERSION}.tar.gz"
    files = {"PKG-INFO": metadata(name), f"{name}.py": module(name), "pyproject.toml": b"[build-system]\nrequires=[]\n"}
    with tarfile.open(path, "w:gz") as archive:
        for inside, content in files.items():
            member = tarfile.TarInfo(f"{name}-{VERSION}/{inside}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


class PypiServer:
    """One node: a pypiserver with an upload directory of its own, on wsgiref (the one that needs nothing else)."""

    def __init__(self, processes: Processes, name: str) -> None:
        self.port = free_port()
        self.packages = processes.directory / f"{name}-packages"
        self.packages.mkdir()
        options = f"run -p {self.port} -i 127.0.0.1 -P . -a . --server wsgiref --backend simple-dir --disable-fallback"
        command = [sys.executable, "-m", "pypiserver", *options.split(), str(self.packages)]
        self.process: ManagedProcess = processes.add(name, command)

    def start(self) -> None:
        self.process.start()
        wait_listening(self.port, process=self.process)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.packages.rglob("*") if path.is_file()}


class Tools:
    """twine and pip, pointed at Spawn."""

    def __init__(self, spawn: Spawn, directory: Path) -> None:
        self._spawn = spawn
        self._directory = directory
        self._environment: Mapping[str, str] = clean_environment(directory, TOOLS)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self._directory,
            env=dict(self._environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def upload(self, *files: Path) -> subprocess.CompletedProcess[str]:
        repository = ("--repository-url", f"{self._spawn.url}/")
        return self.run("twine", "upload", *repository, "--disable-progress-bar", *(str(path) for path in files))

    def download(self, name: str, times: int = 1) -> None:
        """``pip download`` the wheel and compare it with the one that was made here."""
        target = self._directory / "downloads"
        index = ("--index-url", f"{self._spawn.url}/simple/", "--trusted-host", "127.0.0.1")
        for _ in range(times):
            done = self.run("pip", "download", "--no-deps", "--only-binary=:all:", *index, "--dest", str(target), name)
            assert done.returncode == 0, done.stdout + done.stderr
            (got,) = target.iterdir()
            assert got.read_bytes() == (self._directory / "dist" / got.name).read_bytes()
            got.unlink()


def publish(tools: Tools, dist: Path, name: str) -> list[Path]:
    made = [wheel(name, dist), sdist(name, dist)]
    done = tools.upload(*made)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


@pytest.fixture
def servers(processes: Processes) -> list[PypiServer]:
    made = [PypiServer(processes, f"pypi{n}") for n in (1, 2, 3)]
    for server in made:
        server.start()
    return made


def test_three_package_indexes_stay_equal(processes: Processes, servers: list[PypiServer]) -> None:
    _, killed, rested = servers
    dist = processes.directory / "dist"
    dist.mkdir()
    spawn = Spawn(
        processes,
        [server.port for server in servers],
        {"health-check": {"seconds": 1, "url": "/health", "regexp": "(?i)ok"}},
    ).start()
    tools = Tools(spawn, processes.directory)

    # With all three up
    spawn.api.wait_settled()
    first = publish(tools, dist, "apple")
    tools.download("apple", times=3)

    # With one killed
    killed.process.kill()
    publish(tools, dist, "banana")
    tools.download("banana", times=2)

    # With another in maintenance as well
    spawn.api.maintenance(rested.port, on=True)
    publish(tools, dist, "cherry")
    tools.download("cherry")
    assert [len(server.files()) for server in servers] == [6, 2, 4]

    # When both are back
    killed.start()
    spawn.api.maintenance(rested.port, on=False)
    spawn.api.wait_settled()

    # Then the three directories are equal, byte for byte, and hold what was uploaded
    uploaded = {path.name: path.read_bytes() for path in dist.iterdir()}
    assert len(uploaded) == 6
    for server in servers:
        assert server.files() == uploaded
    for name in ("apple", "banana", "cherry"):
        tools.download(name, times=3)
    assert not any(row["diverged"] or row["refused"] for row in spawn.api.queues())

    # And what pypiserver refuses, it refuses through Spawn: the same file a second time
    again = tools.upload(first[0])
    assert again.returncode != 0
    assert "400 Bad Request" in again.stdout + again.stderr, "what twine gets from pypiserver for it"
    spawn.api.wait_settled()
    assert not any(row["diverged"] for row in spawn.api.queues())
    assert spawn.stop() == 0
