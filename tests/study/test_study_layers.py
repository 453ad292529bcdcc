"""Arms whose layers have a pattern of mixers: how a study says them, and what it makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from fakes import cells
from fakes.options import options_of

from retnet_bench.base import UserError
from retnet_bench.models import cost, match
from retnet_bench.models.options import MixerOptions
from retnet_bench.study import plan
from retnet_bench.study import study as studies
from retnet_bench.workloads import Cell

HYBRID = {"layers": ["retention", {"mixer": "attention", "head_dim": 16, "kernel": "math"}]}


def parsed(**arms) -> studies.Study:
    study = cells.study(arms={"transformer": {"mixer": "attention"}, **arms})
    text = yaml.safe_dump(study, sort_keys=False)
    return studies.parse(studies.Source(Path("s.yaml"), text))


def planned(**arms) -> list[plan.Planned]:
    """The pair of the first workload, without its Transformer."""
    return plan.make(parsed(**arms))[0][1:]


def test_a_pattern_is_an_arm_like_any_other():
    (hybrid,) = planned(hybrid=HYBRID)
    assert hybrid.unsupported is None
    assert (hybrid.cell.mixer, hybrid.cell.kernel) == ("hybrid", "chunkwise+math")
    assert hybrid.cell.kernels == ("chunkwise", "math")
    config = hybrid.matched.config
    assert [config.at(i).mixer for i in range(2)] == ["retention", "attention"]
    assert [config.at(i).n_heads for i in range(2)] == [2, 4]
    assert abs(hybrid.matched.mismatch) < 0.01


def test_it_is_in_the_pair_and_in_the_cells_json():
    transformer, hybrid = plan.make(parsed(hybrid=HYBRID))[0]
    assert hybrid.cell.pair_id == transformer.cell.pair_id
    said = json.loads(hybrid.cell.canonical())
    assert said["layers"] == [
        {"mixer": "retention", "kernel": "chunkwise", "chunk": 128},
        {"mixer": "attention", "kernel": "math", "head_dim": 16},
    ]
    assert Cell.read(said) == hybrid.cell
    assert hybrid.cell.options == MixerOptions()
    assert "layers" not in json.loads(transformer.cell.canonical())


def test_two_patterns_are_two_cells():
    one, other = planned(
        a={"layers": ["retention", "attention"]}, b={"layers": ["attention", "retention"]}
    )
    assert one.cell.cell_id != other.cell.cell_id
    assert one.matched.config.layers == other.matched.config.layers[::-1]


def test_a_pattern_of_one_is_that_mixer():
    one, mixer = planned(one={"layers": ["retention"]}, mixer={"mixer": "retention"})
    assert cost.parameters(one.matched.config) == cost.parameters(mixer.matched.config)


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ({"layers": []}, "arms.h.layers is empty; give it at least 1"),
        ({"layers": "retention"}, "arms.h.layers must be a list, is 'retention'"),
        ({"layers": ["retention", 3]}, "arms.h.layers.1.mixer: must be a mixer's name, is 3"),
        ({"layers": ["retention", None]}, "arms.h.layers.1.mixer: must be a mixer's name, is None"),
        (
            {"mixer": "gla", "match": "state"},
            "arms.h.match: mixer gla does not read it; it is every arm's; say it in fixed",
        ),
        ({"layers": ["retenton"]}, 'unknown mixer "retenton"; did you mean "retention"?'),
        ({"layers": [{"kernel": "math"}]}, "arms.h.layers.0.mixer is missing"),
        (
            {"layers": [{"mixer": "attention", "chunk": 8}]},
            "arms.h.layers.0.chunk: mixer attention does not read it; its settings are mixer, ",
        ),
        (
            {"layers": ["attention", {"mixer": "retention", "chnk": 8}]},
            'arms.h.layers.1.chnk: mixer retention does not read it; .*did you mean "chunk"',
        ),
        (
            {"layers": [{"mixer": "retention", "kernel": "parallel", "chunk": 8}]},
            "arms.h.layers.0.chunk: kernel parallel does not read it",
        ),
        (
            {"layers": [{"mixer": "retention", "kernel": "sdpa"}]},
            "kernel sdpa computes attention, not retention; choose from chunkwise",
        ),
        ({"layers": ["attention"], "mixer": "attention"}, "arms.h.mixer: layers says the mixers"),
        (
            {"layers": ["attention"], "head_dim": 8},
            "arms.h.head_dim: an arm with layers says it in an entry of the pattern, {mixer: ",
        ),
        ({"layers": ["attention"], "kernel": "math"}, "arms.h.kernel: an arm with layers says it"),
        (
            {"layers": ["attention"] * 3},
            "arms.h.layers: the pattern has 3 entries, size 0.1M has 2 layers",
        ),
        ({"mixer": "hybrid"}, 'unknown mixer "hybrid"'),
    ],
)
def test_what_is_wrong_with_a_pattern_is_one_line(arm, words):
    with pytest.raises(UserError, match=words) as caught:
        plan.make(parsed(h=arm))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([{"mixer": "retention"}], "layers: an entry has mixer and kernel"),
        ([{"mixer": "x", "kernel": "math"}], 'unknown mixer "x"'),
        ([{"mixer": "retention", "kernel": "chunkwise", "smell": 1}], 'unknown key "smell"'),
        ("retention", "a cell's layers must be a list"),
    ],
)
def test_a_cell_whose_layers_can_t_be_read_is_one_line(layers, words):
    (hybrid,) = planned(hybrid=HYBRID)
    raw = json.loads(hybrid.cell.canonical()) | {"layers": layers}
    with pytest.raises(UserError, match=words):
        Cell.read(raw)


# --- match: state --------------------------------------------------------------------------------


def test_the_state_is_matched_by_the_heads():
    """RetNet's own head has 32 of 64 at this size; a gateless one has half the values, so it needs
    heads twice as wide."""
    retnet = match("0.1M", "retention", by="state")
    found = match("0.1M", "retention", by="state", options=options_of("retention", gate=False))
    states = [cost.state_bytes(m.config, 1, 2048, 4) for m in (retnet, found)]
    assert states[0] == states[1] == 2 * 4 * 64 * 64
    assert (retnet.mismatch, found.mismatch) == (0.0, 0.0)
    assert found.config.key_dim == 64
    reference = match("0.1M", "attention").config
    for one in (retnet, found):
        assert abs(cost.body_parameters(one.config) / cost.body_parameters(reference) - 1) < 0.01


def test_a_state_that_no_width_reaches_is_refused_with_the_nearest():
    words = (
        r"attention at size 0.1M can't be matched by state: after 2,048 tokens its state still "
        r"grows; say a window of at most 2,048 tokens"
    )
    with pytest.raises(UserError, match=words):
        match("0.1M", "attention", by="state", length=2048)


def test_a_state_that_still_grows_is_not_matched_where_it_happens_to_be_as_large():
    """One head of keys and values has RetNet's bytes after 64 tokens, and twice those after 128."""
    for window in (None, 128, 4096):
        options = options_of("attention", window=window)
        with pytest.raises(UserError, match="after 64 tokens its state still grows; say a window"):
            match("0.1M", "attention", by="state", length=64, options=options)
    matched = match(
        "0.1M", "attention", by="state", length=64, options=options_of("attention", window=64)
    )
    assert matched.mismatch == 0.0
    assert cost.state_bytes(matched.config, 1, 4096, 4) == 32_768
    with pytest.raises(UserError, match=r"hyena at size 0.1M .* its state still grows$"):
        match("0.1M", "hyena", by="state", length=64)


def test_what_the_user_says_of_the_heads_stays():
    options = options_of("retention", gate=False, head_dim=16)
    with pytest.raises(UserError, match="can't be matched by state"):
        match("0.1M", "retention", by="state", options=options)


def test_a_pattern_has_no_state_to_match():
    text = yaml.safe_dump(
        cells.study(arms={"h": HYBRID}, fixed={**cells.study()["fixed"], "match": "state"})
    )
    with pytest.raises(UserError, match=r"arms\.h: match: state takes one mixer an arm, not a"):
        plan.make(studies.parse(studies.Source(Path("s.yaml"), text)))
