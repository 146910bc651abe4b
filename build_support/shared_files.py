"""What goes below ``share/`` with an installation: the man page, and what completes the command in bash and zsh.

They are made of the usage text whenever something is built, so the source has no copies that could differ from it.

Invariant: what is imported of Spawn needs the standard library alone, since a build has nothing else.
"""

from __future__ import annotations

from distutils.command.install_data import install_data  # setuptools' own, which has no other name
from pathlib import Path, PurePosixPath

import spawn
from spawnctl import completion, manual

FILES = {
    "share/man/man8/spawnctl.8": lambda: manual.page(spawn.__version__, spawn.__date__),
    "share/bash-completion/completions/spawnctl": completion.bash,
    "share/zsh/site-functions/_spawnctl": completion.zsh,
}
DIRECTORIES = [(str(PurePosixPath(name).parent), list[str]()) for name in FILES]  # that there are any: without files


class InstallSharedFiles(install_data):
    """Write the files where ``data_files`` go."""

    def run(self) -> None:
        for name, make in FILES.items():
            path = Path(self.install_dir, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(make(), "utf-8")
            self.outfiles.append(str(path))
