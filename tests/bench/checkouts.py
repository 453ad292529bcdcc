"""Other people's projects: checkouts given on the command line, packages installed beside this one,
or clones for this run alone."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace


@dataclass(frozen=True)
class Peer:
    """Somebody's project: what is imported of it, and what that imports in turn."""

    name: str
    repository: str
    modules: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """Modules that are read on their own, by path, because their package wants a GPU."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """What these import and never use here: module and name."""
    package: str = ""
    """Its package as it is imported; none: it is in no registry."""
    pip: str = ""
    """What pip installs it by; last comes the distribution's name."""

    def problems(self, checkout: Path) -> list[str]:
        """Why it can't be used, a line for each thing that is missing; empty when it can."""
        if not checkout.is_dir():
            return [f"{self.name}: there is no folder {checkout}; git clone {self.url} {checkout}"]
        lacking = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if lacking:
            return [f"{self.name}: the package {p} is missing; pip install {p}" for p in lacking]
        for file in self.files:
            if not (checkout / file).is_file():
                return [f"{self.name}: there is no {file}; {self._no_checkout(checkout)}"]
        try:
            for module in self.modules:
                self.load(checkout, module)
            for file in self.files:
                self.read(checkout, file)
        except ModuleNotFoundError as error:
            own = [m for m in self.modules if f"{m}.".startswith(f"{error.name}.")]
            got = self._no_checkout(checkout) if own else "pip install it"
            return [f"{self.name}: there is no module {error.name}; {got}"]
        except ImportError as error:
            return [f"{self.name}: can't be imported with what is installed here: {error}"]
        return []

    def installed(self) -> Path | None:
        """The folder that its installed package lies in, as in a checkout."""
        spec = importlib.util.find_spec(self.package) if self.package else None
        if spec is None or spec.submodule_search_locations is None:
            return None
        return Path(next(iter(spec.submodule_search_locations))).parent

    @property
    def url(self) -> str:
        return f"https://github.com/{self.repository}"

    def _no_checkout(self, checkout: Path) -> str:
        return f"{checkout} is no checkout of {self.repository}"

    def load(self, checkout: Path, module: str) -> ModuleType:
        sys.path.insert(0, str(checkout))
        try:
            with _stand_ins(self.absent):
                return importlib.import_module(module)
        finally:
            sys.path.remove(str(checkout))

    def read(self, checkout: Path, file: str) -> ModuleType:
        """One of its files as a module, its package left alone."""
        path = checkout / file
        spec = importlib.util.spec_from_file_location(f"{self.name}_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        with _stand_ins(self.absent):
            spec.loader.exec_module(module)
        return module

    def fetch(self, folder: Path) -> Path:
        """Its newest revision in `folder`. Raises CalledProcessError with git's words."""
        checkout = folder / self.name
        command = ["git", "clone", "--quiet", "--depth", "1", self.url, str(checkout)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return checkout

    def revision(self, checkout: Path) -> str:
        """Its name with the checkout's commit or the package's version, or the name alone."""
        if checkout == self.installed():
            return f"{self.name} {importlib.metadata.version(self.pip.split()[-1])}"
        command = ["git", "-C", str(checkout), "rev-parse", "--short=8", "HEAD"]
        found = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        return f"{self.name} {found}".strip()


@contextmanager
def _stand_ins(absent: Mapping[str, str]) -> Iterator[None]:
    """Modules with nothing but a name in them, while something imports them."""
    before = {module: sys.modules.get(module) for module in absent}
    sys.modules.update({m: SimpleNamespace(**{name: None}) for m, name in absent.items()})  # type: ignore[misc]
    try:
        yield
    finally:
        for module, real in before.items():
            del sys.modules[module]
            if real is not None:
                sys.modules[module] = real


TORCHSCALE = Peer(
    "torchscale",
    "microsoft/torchscale",
    ("torchscale.architecture.config", "torchscale.architecture.retnet"),
    ("fairscale", "einops"),
    absent={"timm.models.layers": "drop_path"},  # timm wants a torchvision that fits this torch
    package="torchscale",
    pip="--no-deps torchscale",  # it asks for versions of fairscale and timm that it doesn't need
)
TRANSFORMERS = Peer(
    "transformers",
    "huggingface/transformers",
    tuple(f"transformers.models.{m}.modeling_{m}" for m in ("gpt2", "llama")),
    package="transformers",
    pip="transformers",
)
NANOGPT = Peer("nanoGPT", "karpathy/nanoGPT", ("model",))
FLA = Peer(
    "fla",
    "fla-org/flash-linear-attention",
    packages=("einops",),
    files=tuple(
        f"fla/ops/{family}.py"
        for family in (
            "simple_gla/naive",
            "linear_attn/naive",
            "gla/naive",
            "rwkv6/chunk_naive",
            "delta_rule/naive",
            "gated_delta_rule/naive",
            "kda/naive",
        )
    ),
    package="fla",
    pip="fla-core",
)
MAMBA = Peer(
    "mamba",
    "state-spaces/mamba",
    packages=("einops",),
    files=("mamba_ssm/modules/ssd_minimal.py",),
    absent={"mamba_ssm.ops.triton.ssd_combined": "mamba_chunk_scan_combined"},
)
OPTIONS = {"torchscale": TORCHSCALE, "nanogpt": NANOGPT, "fla": FLA, "mamba": MAMBA}
"""Each peer by the option that names its checkout."""
PACKAGES = {"transformers": TRANSFORMERS}
"""Those that are taken as installed packages only."""


def prepare(
    args: argparse.Namespace, needs: Mapping[str, tuple[str, ...]], folder: Path
) -> list[str]:
    """For the tables that were asked for: find or fetch into `folder` what has no path, if `args`
    says so, and take out of `args` what can't be used. `needs` are the peers that a table takes at
    least one of. Returns what is missing, a line each."""
    lacking = []
    for table in (name for name in args.tables if name in needs):
        for option in needs[table]:
            lacking += _prepare(args, option, folder)
        if not lacking and not any(getattr(args, option) for option in needs[table]):
            paths = ", ".join(f"--{option} PATH" for option in needs[table] if option in OPTIONS)
            lacking.append(f"{table}: none is named; say {paths}, --installed or --fetch")
    return lacking


def _prepare(args: argparse.Namespace, option: str, folder: Path) -> list[str]:
    """The same of one peer."""
    peer, place = (OPTIONS | PACKAGES)[option], getattr(args, option)
    fetched = args.fetch and option in OPTIONS
    if place is None and args.installed and peer.package:
        place = peer.installed()
        if place is None and not fetched:
            return [f"{peer.name}: it is not installed; pip install {peer.pip}"]
    if place is None and fetched:
        try:
            place = peer.fetch(folder)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            return [f"{peer.name}: can't be fetched: {said.strip().splitlines()[-1]}"]
    problems = peer.problems(place) if place else []
    setattr(args, option, None if problems else place)
    return problems
