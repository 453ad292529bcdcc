"""The verb reproduce: which size is chosen, and that every study of it is sound."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console

from retnet_bench.base import UserError
from retnet_bench.models.config import SIZES
from retnet_bench.run import reproduce
from retnet_bench.run.reproduce import MINUTES, WHAT, Reproduction, names, sized
from retnet_bench.study import plan


def test_all_is_everything_and_headlines_are_part_of_it():
    assert names(["all"]) == list(MINUTES) == list(WHAT)
    assert names(["headlines"]) == ["table4", "fig6a", "fig6b", "fig6c", "fig5"]
    assert names(["fig6b", "headlines"])[0] == "fig6b"
    assert len(set(names(["fig6b", "headlines"]))) == 5
    assert sum(MINUTES.values()) <= 30


def test_an_unknown_figure_is_named_with_a_suggestion():
    with pytest.raises(UserError, match='no "fig6d" to reproduce; did you mean "fig6'):
        names(["fig6d"])


@pytest.mark.parametrize("name", MINUTES)
@pytest.mark.parametrize("size", ["0.1M", "6.7B"])
def test_each_study_is_sound_at_any_size(name, size):
    study, source = sized(name, size)
    assert study.name == name
    assert study.figures
    assert size in source.text.splitlines()[0]
    assert {point.size for _, point, _ in study.points()} >= {size}


def test_an_axis_of_sizes_ends_at_the_largest_and_grows_no_longer():
    def of(size: str) -> list[str]:
        return list(dict.fromkeys(point.size for _, point, _ in sized("fig5", size)[0].points()))

    assert of("0.4M") == ["0.1M", "0.4M"]
    assert of("3M") == ["0.4M", "0.8M", "1.8M", "3M"]


@pytest.mark.parametrize("size", ["0.4M", "200M"])
def test_the_reduced_head_is_a_quarter_at_every_size(size):
    study, _ = sized("table6", size)
    options = {name: arm.options for name, arm in study.arms.items()}
    assert options["reduced_head_dimension"].head_dim == SIZES[size].retention_head_dim // 4
    assert options["retnet"].head_dim is None


def test_a_head_dimension_that_the_paper_states_is_kept():
    arms = sized("table5", "200M")[0].arms
    assert arms["h3"].options.head_dim == 8


class Bearing:
    """Predictions that grow with the size: `seconds` a cell for 0.1M, doubled each size."""

    def __init__(self, seconds: float, fits_to: str = "13B") -> None:
        self.seconds, self.fits_to = seconds, list(SIZES).index(fits_to)

    def __call__(self, pairs: list[plan.Pair]) -> list[SimpleNamespace]:
        cells = [p.cell for pair in pairs for p in pair]
        at = [list(SIZES).index(cell.size) for cell in cells]
        return [
            SimpleNamespace(fits=i <= self.fits_to, cell_s=self.seconds * 2**i / len(cells))
            for i in at
        ]


@pytest.mark.parametrize(
    ("bearing", "minutes", "wanted"),
    [
        # 15 s x 2^i against 120 s: i = 3 takes 120
        (Bearing(15), 2, "1.8M"),
        (Bearing(15), 1.99, "0.8M"),
        (Bearing(0.001, fits_to="3M"), 2, "3M"),
    ],
)
def test_the_largest_size_is_bound_by_time_or_memory(monkeypatch, bearing, minutes, wanted):
    monkeypatch.setattr(reproduce, "_predictions", bearing)
    assert reproduce.largest("fig6b", minutes) == wanted


def test_where_nothing_fits_the_ways_out_are_named(monkeypatch):
    monkeypatch.setattr(reproduce, "_predictions", Bearing(100))
    with pytest.raises(UserError, match=r"0\.1M .* within 1 minutes; .*--minutes, .*--size"):
        reproduce.largest("fig6b", 1)


def test_no_number_of_minutes_bears_nothing(monkeypatch):
    monkeypatch.setattr(reproduce, "_predictions", Bearing(0.001))
    with pytest.raises(UserError, match="not even size"):
        reproduce.largest("fig6b", float("nan"))


@pytest.fixture
def runs(monkeypatch):
    """What would have been run: the studies' texts, kept beside the records as `run` does."""
    reported = []

    def run(study, source, folder, console, **options):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "study.yaml").write_text(source.text)
        reported.append((study, options))

    monkeypatch.setattr(reproduce.running, "run", run)
    monkeypatch.setattr(reproduce, "_keep_rates", lambda: None)
    monkeypatch.setattr(reproduce, "largest", lambda name, minutes: "0.8M")
    return reported


def test_what_was_begun_goes_on_at_its_size(tmp_path, runs):
    Reproduction("fig6b", tmp_path, "0.4M").run(Console())
    Reproduction("fig6b", tmp_path).run(Console())
    Reproduction("fig6b", tmp_path, fresh=True).run(Console())
    assert [study.fixed.size for study, _ in runs] == ["0.4M", "0.4M", "0.8M"]
    assert [options["fresh"] for _, options in runs] == [False, False, True]
    assert all(options["skip_oom"] for _, options in runs)


def test_another_size_in_the_same_folder_is_refused(tmp_path, runs):
    Reproduction("fig6b", tmp_path, "0.4M").run(Console())
    with pytest.raises(UserError, match="another size; --fresh"):
        Reproduction("fig6b", tmp_path, "0.8M").run(Console())
    assert yaml.safe_load((tmp_path / "study.yaml").read_text())["fixed"]["size"] == "0.4M"


def test_an_unknown_size_is_named(tmp_path, runs):
    with pytest.raises(UserError, match='unknown size "3m"; did you mean "3M"'):
        Reproduction("fig6b", tmp_path, "3m").run(Console())


def test_without_lm_eval_table3_trains_nothing(tmp_path, runs, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'retnet-bench\[eval\]'"):
        Reproduction("table3", tmp_path).run(Console())
    assert not runs
