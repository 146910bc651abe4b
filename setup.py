"""Metadata of the distribution ``spawn-sync``; the build system and tool settings are in pyproject.toml."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "build_support"), str(HERE)]

from compiled import extensions  # noqa: E402
from shared_files import DIRECTORIES, InstallSharedFiles  # noqa: E402

match = re.search(r'^__version__ = "([^"]+)"', (HERE / "spawn/__init__.py").read_text("utf-8"), re.M)
assert match, "spawn/__init__.py names no version"

setup(
    name="spawn-sync",
    version=match.group(1),
    description="A fail-over cluster out of N copies of an HTTP application that cannot be clustered",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["spawn", "spawn.*", "spawnctl", "spawnctl.*"]),
    package_data={"spawn": ["py.typed"], "spawnctl": ["py.typed", "init/*"]},
    include_package_data=False,
    data_files=DIRECTORIES,
    cmdclass={"install_data": InstallSharedFiles},
    ext_modules=extensions(),
    install_requires=[
        "gevent>=25.4,<27",
        "falcon>=4.0,<5",
        "msgspec>=0.19,<0.23",
        "google-re2>=1.1.20240702,<2",
        "requests>=2.32,<3",
        "docopt-ng>=0.9,<0.10",
        "python-daemon>=3.1.2,<3.2",
    ],
    extras_require={
        "test": [
            "pytest>=9,<10",
            "pytest-timeout>=2.4,<3",
            "pytest-xdist>=3.8,<4",
            "hypothesis>=6.155,<7",
            "import-linter>=2.11,<3",
            "schemathesis>=4.10,<5",
            "pypiserver>=2.4.2,<3",
            "twine>=6.2,<8",
            "psutil>=7,<8",
            "h11>=0.16,<0.17",
            # No wheels for anything else; without it the fuzzing tests are skipped, except in CI.
            "atheris>=3,<4; sys_platform == 'linux' and platform_machine == 'x86_64' and python_version < '3.15'",
        ],
        "dev": [
            "ruff>=0.17,<0.18",
            "mypy>=2.4,<3",
            "types-gevent>=25.9",
            "types-requests>=2.32",
            "types-docopt>=0.6",
            "types-psutil>=7",
        ],
    },
    entry_points={"console_scripts": ["spawnctl = spawnctl.cli:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: No Input/Output (Daemon)",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Internet :: WWW/HTTP :: HTTP Servers",
        "Topic :: System :: Clustering",
        "Typing :: Typed",
    ],
)
