"""The project as somebody else has it: in a folder of its own, and installed into an empty environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from live import ROOT, environment


class Slug:
    """What a platform makes of the project.

    Attributes:
        source: a copy of what git knows.
        bin: the commands of an environment with what requirements.txt names, and our wheel.
        wheel: as it was built.
    """

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        self.bin = folder / "venv" / "bin"
        listed = subprocess.check_output(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT
        )
        for name in filter(None, listed.decode().split("\0")):
            if (ROOT / name).is_file():
                target = self.source / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, target)
        subprocess.check_call([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")])
        self.pip("install", "-r", str(self.source / "requirements.txt"))  # whose hashes must be right
        self.pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(self.source))
        (self.wheel,) = folder.glob("spacerift-*.whl")
        self.pip("install", "--no-deps", str(self.wheel))
        self.pip("check")

    def pip(self, command: str, *arguments: str) -> None:
        """The pip of the environment that runs the tests, on this one."""
        quiet = ["--quiet", "--disable-pip-version-check"]
        if command == "install":
            quiet += ["--no-compile", "--root-user-action=ignore"]
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), command, *quiet]
        subprocess.run([*pip, *arguments], check=True, stdout=subprocess.DEVNULL)

    def run(self, program: str, **settings: object) -> str:
        """Run Python away from the source, so that what is installed is what is imported."""
        command = [self.bin / "python", "-c", program]
        return subprocess.check_output(command, cwd="/", env=environment(**settings), text=True)
