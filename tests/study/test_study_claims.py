"""Claims in a study's file: mistakes in one line, and what ships agrees with the paper's tables."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from fakes import cells

from retnet_bench import paper
from retnet_bench.analysis.verdicts.claims import Claim, filled_in
from retnet_bench.base import UserError
from retnet_bench.study import study as studies

GOOD = {
    "name": "faster",
    "says": "RetNet trains faster",
    "source": "the paper",
    "measure": {
        "kind": "ratio",
        "metric": "train_tokens_per_s",
        "of": "retnet",
        "over": "transformer",
    },
    "where": {"workload": "train", "length": 16},
    "at_least": 1,
    "paper": {"value": 1.1, "unit": "x", "at": "1.3B"},
}


def load(tmp_path, claim: dict[str, Any]) -> studies.Study:
    made = cells.study(workloads=[{"workload": "train", "axes": {"length": [16, 32]}}])
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(made | {"claims": [claim]}))
    return studies.load(str(path))[0]


def test_a_good_claim_loads(tmp_path):
    assert load(tmp_path, GOOD).claims[0].paper.value == 1.1


def within(part: str, **fields: Any) -> dict[str, Any]:
    return GOOD | {part: GOOD[part] | fields}


WRONG = [
    (GOOD | {"sais": "x"}, 'claims.0: unknown key "sais"; did you mean "says"?'),
    (GOOD | {"figure": "fig6b"}, 'claims.faster: figure "fig6b" is not in the study'),
    (GOOD | {"at_least": "fast"}, "claims.0.at_least"),
    (within("measure", metrik="x"), 'claims.0.measure: unknown key "metrik"; did you mean "metri'),
    (within("measure", kind="ration"), 'claims.0.measure.kind: "ration" is unknown; did you mean'),
    (within("measure", metric="train_token_per_s"), 'did you mean "train_tokens_per_s"?'),
    (within("measure", of="retnett"), 'arm "retnett" is not in the study; did you mean "retnet"?'),
    (within("measure", over="rwkv"), 'claims.faster: arm "rwkv" is not in the study; choose from'),
    (within("where", lenght=16), 'claims.0.where: unknown key "lenght"; did you mean "length"?'),
    (within("where", length=64), 'where.length "64" is not in the study; choose from 16, 32'),
    (within("where", length="longest"), "claims.0.where.length"),
    (within("where", size="9B"), 'where.size "9B" is not in the study'),
    (within("where", dtype="bf16"), 'where.dtype "bf16" is not in the study; '),
    (within("where", workload="trian"), 'has no "train_tokens_per_s"'),
    (within("where", learning_rate=1e-3), "where.learning_rate is of perplexity, not of train"),
    (within("where", learning_rate="beste"), "claims.0.where.learning_rate"),
    (
        {**GOOD, "where": {"workload": "decode"}, "measure": {"kind": "slope", "of": "retnet"}},
        'where.workload "decode" is not in the study; choose from train',
    ),
    (within("paper", units="x"), 'claims.0.paper: unknown key "units"; did you mean "unit"?'),
    ({k: GOOD[k] for k in GOOD if k != "source"}, "claims.0.source is missing"),
]


@pytest.mark.parametrize(("claim", "line"), WRONG, ids=[line[-30:] for _, line in WRONG])
def test_a_mistake_is_one_line_with_file_claim_and_remedy(tmp_path, claim, line):
    with pytest.raises(UserError) as caught:
        load(tmp_path, claim)
    message = str(caught.value)
    assert line in message
    assert "study.yaml: " in message
    assert "\n" not in message


# --- what ships ---------------------------------------------------------------------------------


def stated(study: str) -> dict[str, float]:
    return {c.name: c.paper.value for c in studies.load(study)[0].claims if c.paper}


def value(table: str, **where: Any) -> float:
    frame = paper.load(table).frame
    for column, wanted in where.items():
        frame = frame[frame[column] == wanted]
    assert len(frame) == 1, where
    return float(frame["value"].iloc[0])


def test_the_stated_decode_numbers_are_those_of_figure_6():
    said = stated("paper_decode_80gb")
    rate = {arm: value("fig6b", arm=arm, length=8192) for arm in ("retnet", "transformer")}
    memory = {arm: value("fig6a", arm=arm, length=8192) for arm in ("retnet", "transformer")}
    late = {arm: value("fig6c", arm=arm, length=8192, batch=8) for arm in ("retnet", "transformer")}
    one = {arm: value("fig6c", arm=arm, length=8192, batch=1) for arm in ("retnet", "transformer")}
    assert said["throughput"] == pytest.approx(rate["retnet"] / rate["transformer"], rel=2e-3)
    assert said["latency"] == pytest.approx(late["transformer"] / late["retnet"], rel=2e-3)
    assert said["latency_batch_1"] == pytest.approx(one["transformer"] / one["retnet"], rel=2e-3)
    assert said["memory_less"] == pytest.approx(memory["transformer"] / memory["retnet"], rel=2e-3)
    early = value("fig6c", arm="transformer", length=1024, batch=8)
    slope = 1e3 * (late["transformer"] - early) / (8192 - 1024)
    assert said["decode_rises"] == pytest.approx(slope, rel=2e-3)


@pytest.mark.parametrize(("n", "tag"), [(1.3e9, "1_3B"), (2.7e9, "2_7B")])
def test_the_stated_training_numbers_are_those_of_table_4(n, tag):
    said = stated("paper_train_80gb")

    def of(arm: str, metric: str) -> float:
        return value("table4", arm=arm, metric=metric, n_params=n)

    for other, words in (("transformer_flash", "fused"), ("transformer", "unfused")):
        rate = of("retnet", "train_throughput") / of(other, "train_throughput")
        memory = of("retnet", "train_memory") / of(other, "train_memory")
        assert said[f"vs_{words}_{tag}"] == pytest.approx(rate, rel=2e-3)
        assert said[f"memory_vs_{words}_{tag}"] == pytest.approx(memory, rel=2e-3)


def test_the_stated_perplexities_are_those_of_figure_5():
    ratio = value("fig5", arm="retnet", n_params=6.7e9) / value(
        "fig5", arm="transformer", n_params=6.7e9
    )
    for study in ("quickstart", "perplexity"):
        assert stated(study)["perplexity_lower"] == pytest.approx(ratio, rel=2e-3)


def test_small_studies_quote_the_paper_studies_numbers():
    train, decode = stated("paper_train_80gb"), stated("paper_decode_80gb")
    said = stated("quickstart") | stated("train_throughput") | stated("decode") | stated("memory")
    assert said["train_vs_fused"] == train["vs_fused_1_3B"]
    assert said["train_vs_unfused"] == train["vs_unfused_1_3B"]
    assert said["train_memory_less"] == train["memory_vs_fused_1_3B"]
    assert said["decode_faster"] == decode["throughput"]
    assert said["latency_lower"] == decode["latency"]
    assert said["memory_less"] == decode["memory_less"]


TOOLS = (
    *("gpu_check", "gate", "exact", "exact_mixers"),
    *("learning_rate", "recall", "mixed_precision"),
)
"""Studies that ask nothing of the paper."""


@pytest.mark.parametrize("name", [n for n in studies.names() if n not in TOOLS])
def test_every_study_that_asks_something_has_claims_with_sources(name):
    claims = studies.load(name)[0].claims
    assert claims
    assert all(claim.source and claim.says for claim in claims)


ARMS = ("retnet", "transformer")
RIVALS = {"rwkv": "rwkv4", "h3": "h3", "hyena": "hyena", "linear": "linear_attention"}


def test_the_stated_numbers_of_contenders_are_the_published_ones():
    said = stated("contenders")

    def ratio(source: str, of: str, over: str, **where: str) -> float:
        values = [value("published_perplexity", source=source, arm=a, **where) for a in (of, over)]
        return values[0] / values[1]

    for arm in ("mamba2", "gated_deltanet"):
        wanted = ratio("gdn", arm, "transformer", metric="wikitext")
        assert said[f"{arm}_lower"] == pytest.approx(wanted, abs=6e-4)
    nats = [
        value("published_perplexity", source="yoco", arm=arm, metric="valid")
        for arm in ("gret", "retnet")
    ]
    assert said["gret_lower"] == pytest.approx(math.exp(nats[0] - nats[1]), abs=6e-4)
    assert said["gated_deltanet_trains_slower"] == value("published_throughput", source="fla713")
    assert said["mamba2_trains_faster"] == value("published_throughput", source="fla290")


def test_the_stated_ablations_are_those_of_table_6():
    whole = value("table6", arm="retnet", metric="in_domain")
    for arm, ratio in stated("ablations").items():
        without = value("table6", arm=arm, metric="in_domain")
        assert ratio == pytest.approx(without / whole, abs=6e-4)
    for study in ("table5", str(studies.folder() / "reproduce" / "table5.yaml")):
        said = stated(study)
        for name, arm in RIVALS.items():
            ratio = whole / value("table5", arm=arm, metric="in_domain")
            assert said[f"lower_than_{name}"] == pytest.approx(ratio, abs=6e-4)
        later = {arm: value("later_table1", arm=arm, metric="valid") for arm in ARMS}
        nats = later["retnet"] - later["transformer"]
        assert said["missing_transformer"] == pytest.approx(math.exp(nats), abs=6e-4)
    for study in ("scaling", "scaling_quick", "scaling_gpu"):
        assert stated(study)["perplexity_lower"] == stated("perplexity")["perplexity_lower"]
    at = {"length": 2048}
    ratio = value("table8", arm="retnet", **at) / value("table8", arm="transformer", **at)
    assert stated("context")["perplexity_lower"] == pytest.approx(ratio, abs=6e-4)


# --- the paper's claims by name -----------------------------------------------------------------


def test_a_claim_of_the_paper_is_filled_in_and_what_is_said_stands():
    where = {"workload": "train", "length": "max"}
    said = [{"claim": "train_vs_fused", "name": "mine", "where": where, "at_most": 3}]
    (claim,) = filled_in(said, ["throughput"])
    assert claim["name"] == "mine"
    assert claim["at_most"] == 3
    assert "at_least" not in claim
    assert claim["paper"]["value"] == 1.147
    assert claim["figure"] == "throughput"
    assert "figure" not in filled_in(said, ["fig5"])[0]


def test_a_claim_the_paper_does_not_make_has_a_near_miss(tmp_path):
    with pytest.raises(UserError, match='claim "train_vs_fuse"; did you mean "train_vs_fused"'):
        load(tmp_path, {"claim": "train_vs_fuse", "where": {"workload": "train"}})


@pytest.mark.parametrize("name", paper.claims())
def test_every_claim_of_the_paper_is_sound_and_answered_to(name):
    said = {"claim": name, "where": {"workload": "decode"}}
    claim = Claim.model_validate(filled_in([said], [])[0])
    assert claim.source
    assert claim.objection or name in ("cache_linear", "memory_linear")


def test_figures_that_are_no_list_are_what_is_complained_of(tmp_path):
    made = cells.study(workloads=[{"workload": "train", "axes": {"length": [16, 32]}}])
    claim = {"claim": "train_vs_fused", "where": {"workload": "train"}}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(made | {"figures": 3, "claims": [claim]}))
    with pytest.raises(UserError, match=r"study\.yaml: figures must be a list"):
        studies.load(str(path))
