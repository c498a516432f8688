"""Whether what is here can be released: it builds, what was built runs, and the changelog speaks of it.

Names everything that is in the way, and ends with 1 if there is something.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    in_the_way = [*what_git_says(version), *what_the_changelog_says(version), *what_the_build_says(version)]
    for reason in in_the_way:
        print(f"in the way: {reason}")
    if not in_the_way:
        print(f"{version} can be released: git tag v{version}")
    return 1 if in_the_way else 0


def what_git_says(version: str) -> list[str]:
    """That something is not committed, or the version is taken."""
    found = []
    if changed := output("git", "status", "--porcelain"):
        found.append(f"not committed: {', '.join(line[3:] for line in changed.splitlines())}")
    if output("git", "tag", "--list", f"v{version}"):
        found.append(f"the tag v{version} exists: raise `version` in pyproject.toml")
    return found


def what_the_changelog_says(version: str) -> list[str]:
    """That it does not know the version."""
    if re.search(
        rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.M
    ):
        return []
    return [f"CHANGELOG.md has no section `## {version} - YYYY-MM-DD`"]


def what_the_build_says(version: str) -> list[str]:
    """That it fails, or that what it makes does not run where nothing else is."""
    with tempfile.TemporaryDirectory() as folder:
        built = subprocess.run(
            [sys.executable, "-m", "build", "--outdir", folder, str(ROOT)],
            capture_output=True,
            text=True,
            check=False,
        )
        if built.returncode:
            return [f"the build fails: {built.stdout[-2000:]}{built.stderr[-2000:]}"]
        [wheel] = Path(folder).glob("*.whl")
        [sdist] = Path(folder).glob("*.tar.gz")
        print(f"built {wheel.name} and {sdist.name}")
        clean = Path(folder) / "clean"
        venv.create(clean, with_pip=True)
        output(str(clean / "bin/pip"), "install", "--quiet", str(wheel))
        said = output(str(clean / "bin/userspace-proxy"), "--version")
    return [] if version in said else [f"the wheel calls itself {said!r}, not {version}"]


def output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.rstrip()


if __name__ == "__main__":
    sys.exit(main())
