"""Other people's projects: checkouts given on the command line, packages installed beside this one,
or clones for this run alone."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

from retnet_bench.base import LISTED_LENGTH, printable


class PeerFails(Exception):
    """A peer's own code raised something. Its message is one line."""


@dataclass(frozen=True)
class Peer:
    """Somebody's project: what is imported of it, and what that imports in turn."""

    name: str
    repository: str
    modules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """And the classes that are taken from each."""
    packages: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    """Modules that are read on their own, by path, because their package wants a GPU; and the
    function that is taken from each."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """What these import and never use here: module and name."""
    package: str = ""
    """Its package as it is imported; none: it is in no registry."""
    pip: str = ""
    """What pip installs it by; last comes the distribution's name."""

    def problems(self, checkout: Path) -> list[str]:
        """Why it can't be used, a line for each thing that is missing; empty when it can."""
        if not os.path.isdir(checkout):  # Path.is_dir raises where a path is too long
            return [f"{self.name}: there is no folder {checkout}; git clone {self.url} {checkout}"]
        lacking = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if lacking:
            return [f"{self.name}: the package {p} is missing; pip install {p}" for p in lacking]
        for file in self.files:
            if not (checkout / file).is_file():
                return [f"{self.name}: there is no {file}; {self._no_checkout(checkout)}"]
        for source in [*self.modules, *self.files]:
            if problem := self._problem(checkout, source):
                return [f"{self.name}: {problem}"]
        return []

    def _problem(self, checkout: Path, source: str) -> str:
        """Why one of its modules or files can't be used; empty when it can."""
        try:
            if source in self.modules:
                module, kind, names = self.load(checkout, source), "class", self.modules[source]
            else:
                module, kind, names = self.read(checkout, source), "function", (self.files[source],)
            lacking = [name for name in names if not callable(getattr(module, name, None))]
        except ModuleNotFoundError as error:
            own = [m for m in self.modules if f"{m}.".startswith(f"{error.name}.")]
            if own:
                return f"there is no module {error.name}; {self._no_checkout(checkout)}"
            return f"{checkout} imports {error.name}, which is not installed; pip install it"
        except ImportError as error:
            said = _first_line(error)
            return f"{checkout} can't be imported with what is installed here: {said}"
        except (Exception, SystemExit) as error:  # whatever foreign code does
            return f"{source} of {checkout} {self._failing(error, checkout)}"
        if not lacking:
            return ""
        where = getattr(module, "__file__", None) or checkout  # a folder alone has no __file__
        return f"{where} has no {kind} {lacking[0]}; {self._right(checkout)}"

    @contextmanager
    def running(self, checkout: Path) -> Iterator[None]:
        """What its own code raises within is one line, as PeerFails."""
        try:
            yield
        except Exception as error:
            said = f"{self.name}: {checkout} {self._failing(error, checkout)}"
            raise PeerFails(said) from error

    def _failing(self, error: BaseException, checkout: Path) -> str:
        said = f"{type(error).__name__}: {_first_line(error)}".removesuffix(": ")
        return f"fails: {said}; {self._right(checkout)}"

    def _right(self, checkout: Path) -> str:
        """How to get one that can be used."""
        if checkout == self.installed():
            return f"pip install --upgrade {self.pip}"
        return f"git clone {self.url} PATH"

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


def _first_line(error: BaseException) -> str:
    """Of a message that may be anything."""
    return printable(next(iter(str(error).strip().splitlines()), ""), LISTED_LENGTH)


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
    {
        "torchscale.architecture.config": ("RetNetConfig",),
        "torchscale.architecture.retnet": ("RetNetDecoder",),
    },
    ("fairscale", "einops"),
    absent={"timm.models.layers": "drop_path"},  # timm wants a torchvision that fits this torch
    package="torchscale",
    pip="--no-deps torchscale",  # it asks for versions of fairscale and timm that it doesn't need
)
TRANSFORMERS = Peer(
    "transformers",
    "huggingface/transformers",
    {
        "transformers": ("GPT2Config", "LlamaConfig", "StaticCache"),
        "transformers.models.gpt2.modeling_gpt2": ("GPT2LMHeadModel",),
        "transformers.models.llama.modeling_llama": ("LlamaForCausalLM",),
    },
    package="transformers",
    pip="transformers",
)
NANOGPT = Peer("nanoGPT", "karpathy/nanoGPT", {"model": ("GPT", "GPTConfig")})
FLA = Peer(
    "fla",
    "fla-org/flash-linear-attention",
    packages=("einops",),
    files={
        "fla/ops/simple_gla/naive.py": "naive_chunk_simple_gla",
        "fla/ops/linear_attn/naive.py": "naive_chunk_linear_attn",
        "fla/ops/gla/naive.py": "naive_recurrent_gla",
        "fla/ops/rwkv6/chunk_naive.py": "naive_chunk_rwkv6",
        "fla/ops/delta_rule/naive.py": "delta_rule_chunkwise",
        "fla/ops/gated_delta_rule/naive.py": "naive_chunk_gated_delta_rule",
        "fla/ops/kda/naive.py": "naive_chunk_kda",
    },
    package="fla",
    pip="fla-core",
)
MAMBA = Peer(
    "mamba",
    "state-spaces/mamba",
    packages=("einops",),
    files={"mamba_ssm/modules/ssd_minimal.py": "ssd_minimal_discrete"},
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
