"""`compare` and `init`: the studies that they write are ones that `run` takes."""

from __future__ import annotations

import pytest
import yaml

from retnet_bench.base import UserError
from retnet_bench.figures import FIGURES
from retnet_bench.models import MIXERS
from retnet_bench.results.schema import TIMES
from retnet_bench.study import plan, short, template
from retnet_bench.study import study as studies
from retnet_bench.study.short import Short


def made(
    *arms: str, workload: str = "decode", size: str = "0.1M", lengths="64,128", batch="1"
) -> studies.Study:
    return studies.parse(Short(arms, workload, size, lengths, batch).source())


def test_a_study_has_a_pair_for_each_length_and_batch():
    study = made("retnet", "transformer", lengths="1k,4k,16k", batch="1,8", size="3M")
    assert study.workloads[0].axes == {"length": [1024, 4096, 16384], "batch": [1, 8]}
    assert study.n_cells == 12
    assert study.baseline == "transformer"
    assert study.name == "retnet-transformer-decode-3M-1k-4k-16k-b1-b8"
    assert {arm.mixer for arm in study.arms.values()} == {"retention", "attention"}


def test_one_length_is_no_axis_and_equal_counts_have_one_name():
    assert (
        made("retnet", "mamba2", lengths="1024").name == made("retnet", "mamba2", lengths="1k").name
    )
    assert made("retnet", "mamba2", lengths="1k").workloads[0].axes == {}


@pytest.mark.parametrize("workload", TIMES)
def test_every_timed_workload_plans_and_its_figures_are_there(workload):
    study = made("retnet", "transformer", workload=workload)
    assert len(plan.make(study)) == 2
    assert set(study.figures) <= set(FIGURES)
    assert workload in short.FIGURES


def test_two_kernels_of_one_mixer_are_two_arms():
    study = made("retnet:parallel", "retnet:chunkwise", workload="train")
    assert list(study.arms) == ["retnet-parallel", "retnet-chunkwise"]
    assert study.arms["retnet-parallel"].kernel == "parallel"


def test_a_long_name_is_cut_and_stays_its_own():
    many = ",".join(map(str, range(100, 140)))
    one, other = (
        made("retnet", "mamba2", lengths=many),
        made("retnet", "mamba2", lengths=many + ",9"),
    )
    assert len(one.name) <= 100
    assert one.name != other.name


def test_a_kernel_may_be_left_to_measurement():
    arms = made("retnet:auto", "transformer").arms
    assert arms["retnet-auto"].open == ("kernel",)


@pytest.mark.parametrize(
    ("arms", "options", "said"),
    [
        (["retnet"], {}, "compare wants two arms or more, such as: compare retnet transformer"),
        (["retnet", "transfomer"], {}, 'unknown arm "transfomer"; did you mean "transformer"?'),
        (
            ["retnet", "retnet"],
            {},
            'the arm "retnet" stands twice; an arm beside it needs another kernel or mixer, such '
            "as retnet:auto retnet:chunkwise",
        ),
        (["retnet:chunkwise"] * 2, {}, "such as retnet:chunkwise retnet:parallel"),
        (["retnet:", "mamba2"], {}, "retnet: names no kernel after its colon; choose one, or auto"),
        (["retnet:chunkwse", "mamba2"], {}, 'did you mean "chunkwise"?'),
        (["retnet:sdpa", "mamba2"], {}, "retnet:sdpa: kernel sdpa computes attention, not reten"),
        (["retnet", "mamba2"], {"lengths": "0"}, "--lengths: 0 must be 1 or more"),
        (["retnet", "mamba2"], {"lengths": "1k,1024"}, "--lengths names 1024 twice"),
        (["retnet", "mamba2"], {"lengths": "1k,,2k"}, '"" is no count'),
        (["retnet", "mamba2"], {"lengths": "-4"}, '"-4" is no count, such as 512 or 4k (4096)'),
        (["retnet", "mamba2"], {"batch": "9" * 5000}, "9... is too large"),
        (["retnet", "mamba2"], {"batch": "many"}, '--batch: "many" is no count'),
        (["retnet", "mamba2"], {"workload": "decod"}, 'did you mean "decode"?'),
        (["retnet", "mamba2"], {"workload": "perplexity"}, '"perplexity" is not timed'),
    ],
)
def test_what_makes_no_study_is_one_line(arms, options, said):
    with pytest.raises(UserError) as refusal:
        made(*arms, **options)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_every_mixer_is_an_arm():
    assert set(made(*MIXERS, workload="train").arms) == set(MIXERS)


# --- init -----------------------------------------------------------------------------------------


def test_the_study_to_start_from_plans_as_it_stands(tmp_path):
    path = template.write(tmp_path / "mine.yaml")
    study, source = studies.load(str(path))
    assert study.name == "mine"
    assert source.text.count("#") > 15  # it is commented
    assert all(pair[0].unsupported is None for pair in plan.make(study))
    assert set(study.figures) <= set(FIGURES)
    assert yaml.safe_load(source.text)["baseline"] == "transformer"


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("precious")
    with pytest.raises(UserError, match="is there already and is left as it is"):
        template.write(path)
    assert path.read_text() == "precious"
    (tmp_path / "link.yaml").symlink_to("nowhere")
    with pytest.raises(UserError, match="is there already"):
        template.write(tmp_path / "link.yaml")


@pytest.mark.parametrize(
    ("name", "said"),
    [("mine.txt", "call it mine.yaml"), ("-x y.yaml", "can be no name"), ("mine", "call it")],
)
def test_a_name_that_no_study_can_have_is_refused(tmp_path, name, said):
    with pytest.raises(UserError, match=said):
        template.write(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
