"""Every mixer's options, those of a third one among them: how they are declared, said and kept."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import yaml
from fakes import cells
from fakes.causal_mean import KERNEL_NAMES, NAME, MeanOptions
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tiny_models import EVERY, build, on_meta, tiny
from torch.utils.flop_counter import FlopCounterMode

from retnet_bench.base import UserError
from retnet_bench.catalogue import lists
from retnet_bench.fields import takes
from retnet_bench.models import LanguageModel, checkpoint, cost, match
from retnet_bench.models.mixers import MIXERS
from retnet_bench.models.mixers.attention import AttentionOptions
from retnet_bench.models.mixers.retention import RetentionOptions
from retnet_bench.models.options import hints, names, schemas
from retnet_bench.study import plan
from retnet_bench.study import study as studies
from retnet_bench.workloads import Cell


@pytest.mark.parametrize("mixer", EVERY)
def test_every_option_has_a_type_a_meaning_and_a_default(mixer):
    kind = MIXERS[mixer].Options
    said = schemas(kind)
    assert [*said] == names(kind) == [*hints(kind)]
    assert all(one["description"] and "default" in one for one in said.values())
    defaults = {name: one["default"] for name, one in said.items()}
    assert kind().given() == {n: value for n, value in defaults.items() if value is not None}
    assert {*kind.execution} <= {*said}


@pytest.mark.parametrize("mixer", EVERY)
def test_no_option_is_called_as_what_it_stands_beside(mixer):
    """In a study's arm, in a cell's JSON, in a checkpoint's header."""
    beside = {*studies.Arm.model_fields, *Cell.__dataclass_fields__}
    beside |= {field.name for field in dataclasses.fields(tiny(mixer))}
    assert not beside & {*names(MIXERS[mixer].Options)}


@pytest.mark.parametrize("mixer", EVERY)
def test_list_models_prints_every_option(mixer):
    console = Console(width=300)
    with console.capture() as capture:
        for table in lists.listing("models"):
            console.print(table)
    rows = [[cell.strip() for cell in line.split("│")[1:]] for line in capture.get().splitlines()]
    for option, said in schemas(MIXERS[mixer].Options).items():
        (row,) = [row for row in rows if row[:2] == [mixer, option]]
        assert row[4] == said["description"]
        default = said["default"]
        spelled = str(default).lower() if isinstance(default, bool) else str(default)
        assert row[3] == ("" if default is None else spelled)


def test_values_are_listed_in_words():
    rows = {row: schemas(RetentionOptions)[row] for row in ("chunk", "decay", "gate")}
    assert {name: takes(said) for name, said in rows.items()} == {
        "chunk": "integer above 0, at most 16,777,216",
        "decay": "experiments, eq8, single, none",
        "gate": "true, false",
    }


# --- checkpoints ---------------------------------------------------------------------------------

BEFORE = {"chunk": 128, "decay": "experiments", "gate": True, "head_norm": "group"}
"""What headers of earlier versions say of the options, whatever the mixer."""


@pytest.mark.parametrize("mixer", EVERY)
def test_a_checkpoint_of_an_earlier_version_is_read_as_the_same_model(tmp_path, mixer):
    model = build(tiny(mixer))
    checkpoint.save(model, tmp_path, {})
    tensors, header = checkpoint.load_tensors(tmp_path / "model.safetensors")
    said = header["config"]
    header["config"] = {**BEFORE, **said}
    checkpoint.save_tensors(tensors, tmp_path / "model.safetensors", header)
    assert checkpoint.load(tmp_path)[0].cfg == model.cfg


def test_a_header_stays_as_earlier_versions_write_and_read_it(tmp_path):
    options = RetentionOptions(chunk=16, gate=False)
    cfg = match("0.1M", "retention", kernel="chunkwise", options=options).config
    checkpoint.save(LanguageModel(cfg), tmp_path, {})
    said = json.loads((tmp_path / "config.json").read_text())["config"]
    assert list(said.items())[:14] == [
        ("mixer", "retention"),
        ("family", "paper"),
        ("d_model", 64),
        ("n_layers", 2),
        ("n_heads", 2),
        ("d_key", 64),
        ("d_value", 64),
        ("d_ffn", 256),
        ("vocab_size", 257),
        ("kernel", "chunkwise"),
        ("chunk", 16),
        ("decay", "experiments"),
        ("gate", False),
        ("head_norm", "group"),
    ]
    assert not {"options", "head_dim"} & said.keys()


def test_a_mixer_takes_its_own_options_only():
    cfg = dataclasses.replace(tiny("attention"), options=RetentionOptions())
    with pytest.raises(UserError, match="attention takes AttentionOptions, not RetentionOptions"):
        build(cfg)


# --- cells ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixer", EVERY)
def test_a_cell_is_read_from_its_json(mixer):
    kind = MIXERS[mixer].Options
    said = {"chunk": 7, "gate": False, "decay": "eq8", "head_dim": 16, "expand": 2}
    for options in (kind(), kind(**{n: v for n, v in said.items() if n in names(kind)})):
        made = dataclasses.replace(cells.cell(), mixer=mixer, options=options)
        assert Cell.read(json.loads(made.canonical())) == made
        assert made.pair_id == cells.cell().pair_id


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"colour": 1, "smell": 2}, "this revision does not know the setting colour, smell"),
        ({"options": {}}, "this revision does not know the setting options"),
        ({"mixer": "attention", "chunk": 7}, "this revision does not know the setting chunk"),
        ({"mixer": ["x"]}, "unknown mixer"),
        ({"gate": "no"}, "gate: input should be a valid boolean, not 'no'"),
        ({"length": "x"}, "a cell's length: input should be a valid integer"),
    ],
)
def test_a_cell_that_can_t_be_read_is_one_line(changes, line):
    with pytest.raises(UserError, match=line) as caught:
        Cell.read(json.loads(cells.cell().canonical()) | changes)
    assert "\n" not in str(caught.value)


def test_a_chunk_is_in_every_cell():
    """Ids of attention's cells were made with it."""
    attention = dataclasses.replace(cells.cell(mixer="attention"), options=AttentionOptions())
    assert json.loads(attention.canonical())["chunk"] == 128


# --- the third mixer -----------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.sampled_from(KERNEL_NAMES), st.integers(1, 5), st.integers(1, 40))
def test_its_costs_are_those_of_its_kernels(kernel, expand, length):
    options = MeanOptions(expand=expand)
    cfg = match("0.1M", NAME, kernel=kernel, options=options).config
    model, ids = on_meta(cfg), torch.zeros(1, length, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as forward:
        model(ids)
    with FlopCounterMode(display=False) as both:
        model(ids).sum().backward()
    assert forward.get_total_flops() == cost.forward_flops(cfg, length, masked=True)
    assert both.get_total_flops() == cost.executed_train_flops(cfg, length)
    assert cfg.d_value == expand * cfg.d_model


STUDY = cells.study(
    arms={
        "retnet": {"mixer": "retention", "chunk": 16},
        "transformer": {"mixer": "attention"},
        "mean": {"mixer": NAME, "expand": 2},
    }
)


def _parse(study: dict) -> studies.Study:
    text = yaml.safe_dump(study, sort_keys=False)
    return studies.parse(studies.Source(Path("s.yaml"), text))


def test_it_is_an_arm_of_a_study():
    for pair in plan.make(_parse(STUDY)):
        *_, mean = pair
        assert [planned.unsupported for planned in pair] == [None] * 3
        assert len({planned.cell.pair_id for planned in pair}) == 1
        assert mean.cell.options == MeanOptions(expand=2)
        assert json.loads(mean.cell.canonical())["expand"] == 2
        assert mean.matched.config.d_value == 128
        assert abs(mean.matched.mismatch) <= 0.01


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("expnad", 2, r"mean does not read it; its settings are .*, expand; did you mean \"expand"),
        ("chunk", 2, "arms.mean.chunk: mixer mean does not read it; its settings are mixer, "),
        ("expand", 9, "arms.mean.expand: input should be less than or equal to 8, not 9"),
        ("expand", "2", "arms.mean.expand: input should be a valid integer, not '2'"),
    ],
)
def test_what_an_arm_says_is_checked_by_the_mixers_own_options(key, value, line):
    arms = STUDY["arms"] | {"mean": {"mixer": NAME, key: value}}
    with pytest.raises(UserError, match=line) as caught:
        _parse(STUDY | {"arms": arms})
    assert str(caught.value).startswith(f"s.yaml: arms.mean.{key}: ")
