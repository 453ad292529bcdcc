"""What the shell completes is what there is, found without loading what is slow."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from retnet_bench.cli import completion


def test_the_completed_names_are_those_of_the_registries():
    from retnet_bench.catalogue.lists import LISTS
    from retnet_bench.figures import FIGURES
    from retnet_bench.kernels import KERNELS
    from retnet_bench.models import SIZES
    from retnet_bench.models.mixers import FILES, MIXERS
    from retnet_bench.results.schema import TIMES
    from retnet_bench.run import reproduce
    from retnet_bench.study import short, study

    assert completion.size_names() == list(SIZES)
    assert completion.mixer_names() == list(FILES)
    assert sorted(completion.kernel_names()) == sorted(KERNELS)
    assert completion.figure_names() == sorted(FIGURES)
    assert completion.timed_names() == list(TIMES)
    assert completion.study_names() == study.names()
    assert tuple(LISTS) == completion.LISTS
    assert short.CALLED == completion.CALLED
    for mixer in FILES:
        family = MIXERS[mixer].kernels
        assert completion.kernel_family(mixer) == family
        its = {name for name, kernel in KERNELS.items() if kernel.mixer == family}
        assert set(completion.kernel_names(family)) == its
    for name in completion.reproductions(""):
        reproduce.names([name])  # UserError for one that there is not


@pytest.mark.parametrize(
    ("before", "typed", "found"),
    [
        ([], "retn", ["retnet"]),
        ([], "retnet:ch", ["retnet:chunkwise"]),
        (["retnet"], "transformer:sdpa_f", ["transformer:sdpa_flash"]),
        ([], "retnet:au", ["retnet:auto"]),
        ([], "nothing:au", []),
        ([], "retnet:sd", []),  # a kernel of another mixer
        (["retnet", ":"], "ch", ["chunkwise"]),  # bash's three words
        (["retnet", "gated_retention", ":"], "scalar_r", ["scalar_recurrent"]),
        (["retnet"], ":", []),
        ([":"], "ch", []),
    ],
)
def test_arms_complete_the_kernels_of_their_mixer(before, typed, found):
    ctx = SimpleNamespace(params={"arms": before})
    assert completion.arms(ctx, typed) == found


def test_studies_are_those_that_ship_and_files_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dear.yaml").write_text("")
    (tmp_path / "dear.txt").write_text("")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.yml").write_text("")
    assert completion.studies("de") == ["decode", "dear.yaml"]
    assert completion.studies("sub/") == ["sub/x.yml"]
    assert completion.studies("nowhere/") == []


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("run quick", "quickstart"),
        ("plot x --figure fig6", "fig6a"),
        ("compare retnet trans", "transformer"),
        ("compare retnet : ch", "chunkwise"),
        ("list kern", "kernels"),
        ("compare a b --size 3", "3M"),
    ],
)
def test_a_shell_gets_them_without_torch(words, found):
    """As bash asks; the modules that are loaded are said at the end."""
    code = (
        "import atexit, sys\n"
        "slow = ('torch', 'pandas', 'matplotlib', 'scipy', 'numpy', 'pyarrow')\n"
        "atexit.register(lambda: print('loaded', [m for m in slow if m in sys.modules]))\n"
        "from retnet_bench.cli.main import app\n"
        "app(prog_name='retnet-bench')\n"
    )
    typed = f"retnet-bench {words}"
    asked = {
        "_RETNET_BENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True
    )
    assert found in done.stdout, done.stderr
    assert "loaded []" in done.stdout
