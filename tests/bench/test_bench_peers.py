"""A peer that lacks something is one line each; the rest of the bench goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

import bench
from checkouts import NANOGPT, TORCHSCALE, Peer


@pytest.fixture
def run(monkeypatch, capsys):
    """The bench with one other table; returns exit code and what it said."""
    other = {"train": lambda *_: [Table("the rest")], "peers": bench.peer_models}
    monkeypatch.setattr(bench, "TABLES", other)
    for setting in ("set_num_threads", "set_flush_denormal"):  # of the whole process
        monkeypatch.setattr(bench.torch, setting, lambda _: None)

    def call(*words: str) -> tuple[int, list[str], str]:
        code = bench.main(["--tables", "peers", "train", *words])
        shown = capsys.readouterr()
        return code, shown.err.splitlines(), shown.out

    return call


def installed(monkeypatch, *names: str) -> None:
    found = {name: None for name in ("fairscale", "einops") if name not in names}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found.get(name, "here"))


@pytest.mark.parametrize("have", [(), ("einops",), ("fairscale",)])
def test_each_missing_package_is_a_line_and_the_rest_goes_on(run, monkeypatch, tmp_path, have):
    installed(monkeypatch, *have)
    code, said, shown = run("--torchscale", str(tmp_path))
    lacking = [name for name in ("fairscale", "einops") if name not in have]
    assert said == [f"torchscale: the package {p} is missing; pip install {p}" for p in lacking]
    assert code == 1
    assert "the rest" in shown


def test_a_folder_that_is_not_there_says_how_to_get_it(run, tmp_path):
    code, said, _ = run("--nanogpt", str(tmp_path / "x"))
    clone = f"git clone https://github.com/karpathy/nanoGPT {tmp_path / 'x'}"
    assert said == [f"nanoGPT: there is no folder {tmp_path / 'x'}; {clone}"]
    assert code == 1


def test_a_folder_of_something_else_is_told(monkeypatch, tmp_path):
    installed(monkeypatch, "fairscale", "einops")
    module = next(iter(TORCHSCALE.modules)).partition(".")[0]
    (said,) = TORCHSCALE.problems(tmp_path)
    assert said == (
        f"torchscale: there is no module {module}; {tmp_path} is no checkout of "
        "microsoft/torchscale"
    )


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import no_such_package",
            "imports no_such_package, which is not installed; pip install it",
        ),
        ("from math import no_such_name", "can't be imported with what is installed here: cannot"),
    ],
)
def test_what_the_checkout_imports_and_has_not_is_told(tmp_path, code, said):
    (tmp_path / "peer_model.py").write_text(code)
    peer = Peer("peer", "owner/peer", {"peer_model": ()})
    (line,) = peer.problems(tmp_path)
    assert line.startswith(f"peer: {tmp_path} {said}")
    assert str(tmp_path) not in sys.path


CLONE = "git clone https://github.com/karpathy/nanoGPT PATH"
NANOGPT_NAMES = "class GPT: pass\nclass GPTConfig: pass\n"


@pytest.fixture
def forget():
    """The module that a checkout of nanoGPT leaves behind."""
    yield
    sys.modules.pop("model", None)


@pytest.mark.usefixtures("forget")
def test_a_whole_checkout_has_no_problem(tmp_path):
    (tmp_path / "model.py").write_text(NANOGPT_NAMES)
    assert NANOGPT.problems(tmp_path) == []


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1", "{0}/model.py has no class GPT"),
        ("GPT = 1", "{0}/model.py has no class GPT"),
        ("class GPT: pass", "{0}/model.py has no class GPTConfig"),
        ("def (", "model of {0} fails: SyntaxError: invalid syntax (model.py, line 1)"),
        ("raise ValueError('one\\ntwo')", "model of {0} fails: ValueError: one"),
        ("assert False", "model of {0} fails: AssertionError"),
        ("raise SystemExit(3)", "model of {0} fails: SystemExit: 3"),
    ],
)
def test_a_model_that_is_none_is_a_line_and_the_rest_goes_on(run, tmp_path, code, said):
    (tmp_path / "model.py").write_text(code)
    found, lines, shown = run("--nanogpt", str(tmp_path))
    assert lines == [f"nanoGPT: {said.format(tmp_path)}; {CLONE}"]
    assert found == 1
    assert "the rest" in shown


@pytest.mark.usefixtures("forget")
def test_a_folder_in_place_of_a_module_is_told(tmp_path):
    (tmp_path / "model").mkdir()
    assert NANOGPT.problems(tmp_path) == [f"nanoGPT: {tmp_path} has no class GPT; {CLONE}"]


@pytest.mark.usefixtures("forget")
def test_a_model_that_fails_when_it_is_made_is_a_line_and_the_rest_goes_on(run, tmp_path):
    (tmp_path / "model.py").write_text(NANOGPT_NAMES)
    code, lines, shown = run("--nanogpt", str(tmp_path), "--sizes", "0.1M", "--batches", "1")
    fails = "fails: TypeError: GPTConfig() takes no arguments"
    assert lines == [f"nanoGPT: {tmp_path} {fails}; {CLONE}"]
    assert code == 1
    assert "the rest" in shown


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("", "{0}/pack/one.py has no function form"),
        ("form = 1", "{0}/pack/one.py has no function form"),
        ("1 +", "pack/one.py of {0} fails: SyntaxError: invalid syntax (one.py, line 1)"),
        ("1 / 0", "pack/one.py of {0} fails: ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_without_its_function_is_told(tmp_path, code, said):
    peer = Peer("peer", "owner/peer", files={"pack/one.py": "form"})
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "one.py").write_text(code)
    clone = "git clone https://github.com/owner/peer PATH"
    assert peer.problems(tmp_path) == [f"peer: {said.format(tmp_path)}; {clone}"]


def test_an_installed_package_that_is_none_is_to_be_upgraded(tmp_path, monkeypatch):
    (tmp_path / "old_pack").mkdir()
    (tmp_path / "old_pack" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    peer = Peer("peer", "owner/peer", {"old_pack": ("Model",)}, package="old_pack", pip="old-pack")
    said = f"peer: {tmp_path}/old_pack/__init__.py has no class Model"
    assert peer.problems(tmp_path) == [f"{said}; pip install --upgrade old-pack"]
    del sys.modules["old_pack"]


def test_peers_without_a_path_are_told(run):
    code, said, shown = run()
    assert (code, said) == (
        1,
        ["peers: none is named; say --torchscale PATH, --nanogpt PATH, --installed or --fetch"],
    )
    assert "the rest" in shown


def test_each_package_that_is_not_installed_is_a_line_and_the_rest_goes_on(run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, said, shown = run("--installed")
    assert said == [
        "torchscale: it is not installed; pip install --no-deps torchscale",
        "transformers: it is not installed; pip install transformers",
    ]
    assert code == 1
    assert "the rest" in shown


def test_an_installed_package_is_taken_unless_a_path_is_given(run, monkeypatch, tmp_path):
    for where in ("installed", "given"):
        (tmp_path / where / "pack").mkdir(parents=True)
        (tmp_path / where / "pack" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    peer = Peer("peer", "owner/peer", {"pack": ()}, package="pack", pip="--no-deps pack-core")
    monkeypatch.setattr("checkouts.OPTIONS", {"torchscale": peer, "nanogpt": NANOGPT})
    monkeypatch.setattr("checkouts.PACKAGES", {"transformers": peer})
    monkeypatch.setattr("importlib.metadata.version", {"pack-core": "1.2"}.__getitem__)
    seen = []

    def table(args, protocol):
        seen.append((args.torchscale, args.nanogpt, peer.revision(args.torchscale)))
        return []

    monkeypatch.setitem(bench.TABLES, "peers", table)
    given = tmp_path / "given"
    assert run("--installed")[:2] == (0, [])
    assert run("--installed", "--torchscale", str(given))[:2] == (0, [])
    assert seen == [(tmp_path / "installed", None, "peer 1.2"), (given, None, "peer")]
    del sys.modules["pack"]


def test_a_file_is_read_without_its_package_and_without_what_it_never_uses(tmp_path, monkeypatch):
    absent = {"gpu.only": "kernel"}
    peer = Peer("peer", "owner/peer", files={"pack/one.py": "form"}, absent=absent)
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("import no_such_package")
    (tmp_path / "pack" / "one.py").write_text(
        "from gpu.only import kernel\nvalue = kernel, 2\ndef form(): pass"
    )
    assert peer.problems(tmp_path) == []
    assert peer.read(tmp_path, "pack/one.py").value == (None, 2)
    assert "gpu.only" not in sys.modules
    monkeypatch.setitem(sys.modules, "gpu.only", SimpleNamespace(kernel=1))
    assert peer.read(tmp_path, "pack/one.py").value == (None, 2)
    assert sys.modules["gpu.only"].kernel == 1


def test_a_file_that_is_not_there_is_told(tmp_path):
    peer = Peer("peer", "owner/peer", files={"pack/one.py": "form"})
    (said,) = peer.problems(tmp_path)
    assert said == f"peer: there is no pack/one.py; {tmp_path} is no checkout of owner/peer"


@pytest.fixture
def github(tmp_path, monkeypatch):
    """What stands for github.com: a folder of repositories, owner/name."""
    folder = tmp_path / "github"
    for i, (key, value) in enumerate(
        {f"url.file://{folder}/.insteadOf": "https://github.com/", "user.name": "n"}.items()
    ):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{i}", key)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{i}", value)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "2")
    return folder


def test_a_peer_is_fetched_for_the_run_alone(run, github, monkeypatch, tmp_path):
    repository = github / NANOGPT.repository
    repository.mkdir(parents=True)
    (repository / "model.py").write_text(NANOGPT_NAMES)
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        env = os.environ | {"GIT_AUTHOR_EMAIL": "a@b.c", "GIT_COMMITTER_EMAIL": "a@b.c"}
        subprocess.run(["git", *words], cwd=repository, env=env, check=True)
    seen = []

    def table(args, protocol):
        seen.append((args.nanogpt, args.nanogpt.is_dir(), NANOGPT.revision(args.nanogpt)))
        return []

    monkeypatch.setitem(bench.TABLES, "peers", table)
    code, said, _ = run("--fetch")
    ((checkout, was_there, revision),) = seen
    assert was_there
    assert not checkout.exists()
    assert len(revision) == len("nanoGPT 12345678")
    assert code == 1
    (line,) = said  # the other one
    assert line.startswith("torchscale: can't be fetched: ")
    del sys.modules["model"]
