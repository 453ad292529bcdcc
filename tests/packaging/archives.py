"""What is in wheel and sdist: no file missing and none too many. `nox -s package` runs it as
`python tests/packaging/archives.py WHEEL SDIST`."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEEDED = {
    "retnet_bench/__init__.py",
    "retnet_bench/paper/claims.yaml",
    "retnet_bench/paper/predicted.csv",
    "retnet_bench/report/page/page.css",
    "retnet_bench/report/page/page.html.jinja",
    "retnet_bench/report/page/page.js",
    "retnet_bench/studies/quickstart.yaml",
    "retnet_bench/studies/reproduce/fig6a.yaml",
}
"""Files without which a verb breaks: named, so that a rule that loses them is seen."""
SOURCE = (
    *("retnet_bench", "studies", "tests", "docs", "noxfile.py", "constraints.txt", "LICENSE"),
    *("README.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", ".gitignore"),
)
"""What of the repository an sdist has; the rest are reference results and CI."""
MOST_BYTES = {"wheel": 1_500_000, "sdist": 4_000_000}


def main(wheel: Path, sdist: Path) -> int:
    """Exit code 1 and a line for each difference."""
    tracked = _tracked()
    problems = [
        *_compared("wheel", _wheel(wheel), _in_wheel(tracked)),
        *_compared("sdist", _sdist(sdist), {n for n in tracked if n.split("/")[0] in SOURCE}),
        *(f"wheel: {name} is missing, and needed" for name in sorted(NEEDED - _wheel(wheel))),
        *_sizes({"wheel": wheel, "sdist": sdist}),
    ]
    print("\n".join(problems) or "wheel and sdist hold what they should, and nothing else")
    return int(bool(problems))


def _tracked() -> set[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return set(filter(None, listed.stdout.decode().split("\0")))


def _in_wheel(tracked: set[str]) -> set[str]:
    """The package, and the studies inside it."""
    package = {name for name in tracked if name.startswith("retnet_bench/")}
    return package | {f"retnet_bench/{name}" for name in tracked if name.startswith("studies/")}


def _wheel(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def _sdist(path: Path) -> set[str]:
    with tarfile.open(path) as archive:
        files = (member.name.split("/", 1)[1] for member in archive if member.isfile())
        return {name for name in files if name != "PKG-INFO"}


def _compared(what: str, found: set[str], expected: set[str]) -> list[str]:
    missing = [f"{what}: {name} is missing" for name in sorted(expected - found)]
    return missing + [f"{what}: {name} is too many" for name in sorted(found - expected)]


def _sizes(archives: dict[str, Path]) -> list[str]:
    sizes = {what: path.stat().st_size for what, path in archives.items()}
    return [
        f"{what}: {size:,} bytes, more than {MOST_BYTES[what]:,}"
        for what, size in sizes.items()
        if size > MOST_BYTES[what]
    ]


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:3])))
