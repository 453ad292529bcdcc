"""The verb eval and the workload downstream: from a checkpoint to records and a table."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import tokenizers as hf
import torch
from rich.console import Console

from retnet_bench.analysis.tables import accuracy
from retnet_bench.analysis.tables.downstream import scores
from retnet_bench.base import UserError
from retnet_bench.catalogue.plan import _plan_row
from retnet_bench.measure.rates import Rates
from retnet_bench.models import LanguageModel, checkpoint, match
from retnet_bench.predict import prediction
from retnet_bench.predict.targets import Target
from retnet_bench.report.downstream import scores_table
from retnet_bench.results.store import Store, read_records
from retnet_bench.run import session as running
from retnet_bench.run.evaluate import Options, evaluate
from retnet_bench.study import plan, study
from retnet_bench.workloads import WORKLOADS
from retnet_bench.workloads import downstream as tasks

YAML = """
name: tasks
question: who answers better?
arms:
  retnet: {{mixer: retention, kernel: chunkwise, checkpoint: {folder}/retention}}
  transformer: {{mixer: attention, kernel: math, checkpoint: {folder}/attention}}
fixed: {{size: 0.1M, length: 128, measure: [time], include: {folder}, limit: 6}}
workloads:
  - workload: downstream
    fixed: {{shots: 0}}
    axes: {{task: [pick]}}
"""


@pytest.fixture
def folder(tmp_path):
    """Two checkpoints of a pair, a task file and its data."""
    for mixer, kernel in (("retention", "chunkwise"), ("attention", "math")):
        torch.manual_seed(0)
        model = LanguageModel(match("0.1M", mixer, kernel=kernel, length=128).config)
        checkpoint.save(model, tmp_path / mixer, {"tokenizer": "byte", "size": "0.1M"})
    rows = [{"a": f"row {i}", "b": ["x", "yes"], "c": i % 2} for i in range(9)]
    data = tmp_path / "pick.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "pick.yaml").write_text(
        f"task: pick\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "{{a}}"\n'
        "doc_to_choice: b\ndoc_to_target: c\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n"
    )
    return tmp_path


needs_lm_eval = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("lm_eval"), reason="extra eval"
)


@needs_lm_eval
def test_eval_writes_nothing_into_a_folder_that_a_run_holds(folder):
    options = Options(shots=0, limit=1, include=str(folder))
    with Store.alone(folder / "out") as store:
        with pytest.raises(UserError, match=r"another run is writing to .*out: wait until it ends"):
            evaluate(folder / "retention", ["pick"], folder / "out", options)
        assert store.finished() == {}


@needs_lm_eval
def test_eval_keeps_every_document_and_what_lm_eval_says_of_them(folder):
    options = Options(shots=0, limit=6, include=str(folder))
    evaluate(folder / "retention", ["pick"], folder / "out", options)
    evaluate(folder / "attention", ["pick"], folder / "out", options)
    records = read_records(folder / "out")
    assert set(records["arm"]) == {"retention", "attention"}
    assert set(records["task"]) == {"pick"}
    assert set(records["phase"]) == {"score"}
    assert set(records["shots"]) == {0}
    assert records["mismatch"].isna().all()
    ours = records[records["arm"] == "retention"].set_index("metric")
    logs = np.reshape(ours.loc["request_loglikelihood_nat", "samples"], (6, 2))
    right = (logs.argmax(1) == np.arange(6) % 2).astype(float)
    assert list(ours.loc["acc", "samples"]) == list(right)
    assert ours.loc["acc", "value"] == pytest.approx(right.mean())
    assert list(ours.loc["document_requests", "samples"]) == [2.0] * 6
    frame = scores(records).set_index(["arm", "metric"])
    row = frame.loc[("retention", "acc")]
    assert row["stderr"] == pytest.approx(right.std(ddof=1) / math.sqrt(6))
    assert 0 <= row["low"] <= row["estimate"] <= row["high"] <= 1
    table = scores_table(records)
    assert table is not None
    assert table.row_count == 4


@needs_lm_eval
def test_nothing_is_written_for_a_task_nobody_knows(folder, monkeypatch):
    import lm_eval.tasks

    real = lm_eval.tasks.TaskManager
    local = lambda **kwargs: real(**{**kwargs, "include_defaults": False})  # noqa: E731
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", local)
    options = Options(include=str(folder))
    with pytest.raises(UserError, match='unknown task "pikc"; did you mean "pick"'):
        evaluate(folder / "retention", ["pick", "pikc"], folder / "out", options)
    assert not (folder / "out").exists()


@needs_lm_eval
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": "bpe:300"}, "the model knows 257 tokens, tokenizer bpe:300 has 300"),
        ({"dtype": "fp23"}, '--dtype "fp23" is unknown'),
        ({"device": "tpu"}, "--device tpu: torch has no such device here"),
        ({"device": "cpuu"}, '--device cpuu: torch has no such device here; did you mean "cpu"'),
        ({"arm": "../a b"}, "--arm: must begin with a letter or digit"),
        ({"tokenizer": "nope.json"}, "--tokenizer nope.json: there is no such file"),
        ({"shots": 500}, "pick: fewer documents to take examples from than shots"),
        ({"include": "/none"}, "--include /none: there is no such folder"),
    ],
)
def test_bad_options_are_one_line(folder, options, message):
    said = Options(**({"include": str(folder)} | options))
    with pytest.raises(UserError, match=message):
        evaluate(folder / "retention", ["pick"], folder / "refused", said)
    assert not (folder / "refused").exists()


def letters(path, known: str):
    """A tokenizer.json of single characters, which knows no others."""
    vocab = {"<s>": 0} | {letter: i for i, letter in enumerate(known, 1)}
    model = hf.Tokenizer(hf.models.BPE(vocab, []))
    model.decoder = hf.decoders.Fuse()
    model.enable_truncation(4)
    model.save(str(path))
    return path


@needs_lm_eval
def test_bytes_without_tokens_do_not_flatter_and_two_tokenizers_are_two_cells(folder):
    texts = ["we sew \U0001f642 wool", "sea", "\U0001f642"]
    data = folder / "whole.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "whole.yaml").write_text(
        f"task: whole\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        'test_split: test\noutput_type: loglikelihood_rolling\ndoc_to_text: ""\n'
        'doc_to_target: "{{text}}"\nmetric_list:\n'
        "- {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}\n"
    )
    for name, known in (("some.json", "abelosw "), ("all.json", "wsolea b\U0001f642")):
        path = letters(folder / name, known)
        options = Options(include=str(folder), tokenizer=str(path))
        evaluate(folder / "retention", ["whole"], folder / "out", options)
    records = read_records(folder / "out")
    assert records["cell_id"].nunique() == 2
    found = {
        reason: part.set_index("metric")
        for reason, part in records.groupby(records["reason"].fillna(""))
    }
    some, every = found.pop(next(filter(None, found))), found[""]
    nats = {
        name: -np.sum(part.loc["request_loglikelihood_nat", "samples"])
        for name, part in (("some", some), ("every", every))
    }
    assert list(some.loc["scored_bytes", "samples"]) == [12, 3, 0]
    assert list(every.loc["scored_bytes", "samples"]) == [16, 3, 4]
    assert some.loc["bits_per_byte", "value"] == pytest.approx(nats["some"] / 15 / math.log(2))
    assert every.loc["bits_per_byte", "value"] == pytest.approx(nats["every"] / 23 / math.log(2))
    assert set(some["status"]) == {"ok"}
    reason = some.loc["bits_per_byte", "reason"]
    assert reason.startswith("some.json can't spell all of 2 texts (first at ")
    assert reason.endswith("): 8 bytes are not counted")
    assert sorted(scores(records)["n"]) == [2, 3]
    console = Console(file=io.StringIO(), width=200)
    console.print(scores_table(records))
    assert f"whole: retention: {reason}" in console.file.getvalue()


def test_only_a_tokenizer_s_file_has_its_checksum_in_the_cell(folder):
    model, meta = checkpoint.load(folder / "retention")
    byte = tasks.tokenizer_of(folder, meta)
    file = tasks.tokenizer_of(folder, meta, str(letters(folder / "some.json", "abc")))
    assert tasks.file_checksum(byte) is None
    assert tasks.file_checksum(file) == file.checksum[:16]
    tasks.check_vocabulary(folder, model, file)  # 4 ids, 257 rows: a padded table
    with pytest.raises(UserError, match="bos_token_id is 257, but the model knows 257 tokens"):
        tasks.check_vocabulary(folder, model, replace(file, bos=257))
    many = letters(folder / "many.json", "".join(map(chr, range(300, 557))))
    tokenizer = tasks.tokenizer_of(folder, meta, str(many))
    with pytest.raises(UserError, match=r"knows 257 tokens, tokenizer many\.json has 258"):
        tasks.check_vocabulary(folder, model, tokenizer)


@pytest.mark.parametrize(("said", "ends"), [(None, ()), (2, (2,)), ([2, 5], (2, 5)), (-1, ())])
def test_the_config_s_ends_of_text_reach_the_scorer(folder, said, ends):
    model, meta = checkpoint.load(folder / "retention")
    tokenizer = tasks.tokenizer_of(folder, meta, str(letters(folder / "some.json", "abc")))
    scorer = tasks.scorer_of(model, {"eos_token_id": said}, tokenizer, None)
    assert scorer.ends == ends
    assert scorer.n_ids == max(4, *(end + 1 for end in ends), 0)


def planned(folder, change=lambda text: text):
    path = folder / "tasks.yaml"
    path.write_text(change(YAML.format(folder=folder)))
    return plan.make(study.load(str(path))[0])


@needs_lm_eval
def test_the_workload_scores_each_arm_of_a_matched_pair(folder):
    [pair] = planned(folder)
    assert len({p.cell.pair_id for p in pair}) == 1
    for one in pair:
        assert one.unsupported is None
        workload = WORKLOADS["downstream"](one.cell)
        workload.prepare()
        found = {s.metric: s for s in workload.block(None, one.protocol, 0.0)}
        workload.check()
        assert len(found["acc"].values) == 6
        assert found["acc"].coordinates["task"] == "pick"


def test_nothing_is_predicted_of_a_task(folder):
    [pair] = planned(folder)
    found = prediction.predict(
        pair[0], Target(Rates("none", {}, None, None, None, "none"), "cpu", None)
    )
    assert (found.flops, found.cell_s, found.memory, found.roofline.seconds) == (None,) * 4
    assert found.reason == "how much a task asks is not known before it is read"
    assert "" in _plan_row(pair[0], found)


def retrained(folder):
    """The checkpoints, saying of themselves that they were trained on 3 million tokens."""
    for mixer in ("retention", "attention"):
        model, meta = checkpoint.load(folder / mixer)
        checkpoint.save(model, folder / mixer, meta | {"tokens": 3_000_000})
    return folder


@needs_lm_eval
def test_the_package_s_own_tasks_need_no_files_and_say_what_training_took(folder):
    options = Options(limit=40)
    names = ["grammar_filler_gap", "names_seen_near"]
    for mixer in ("retention", "attention"):
        evaluate(retrained(folder) / mixer, names, folder / "out", options)
    records = read_records(folder / "out")
    ours = records[(records["task"] == "names_seen_near") & (records["arm"] == "retention")]
    ours = ours.set_index("metric")
    logs = np.reshape(ours.loc["request_loglikelihood_nat", "samples"], (40, 2))
    right = (logs.argmax(1) == np.arange(40) % 2).astype(float)
    assert list(ours.loc["acc", "samples"]) == list(right)
    assert ours.loc["acc", "shots"] == 0
    assert ours.loc["tokens_trained", "value"] == 3_000_000
    frame = accuracy.by_compute(records)
    assert list(frame["group"]) == ["names", "names", "structure", "structure"]
    flops = ours.loc["acc", "flops_per_token"]
    assert frame["compute"].iloc[1] == pytest.approx(3e6 * flops)
    assert len(scores(records)) == 4  # how much it was trained on is no score


@needs_lm_eval
def test_a_list_of_tasks_is_one_cell_of_the_workload(folder):
    text = "axes: {task: [names]}"
    [pair] = planned(retrained(folder), lambda yaml: yaml.replace("axes: {task: [pick]}", text))
    workload = WORKLOADS["downstream"](pair[0].cell)
    workload.prepare()
    found = [s for s in workload.block(None, pair[0].protocol, 0.0) if s.metric == "acc"]
    assert {s.coordinates["task"] for s in found} == set(tasks.TASK_LISTS["names"])
    assert {len(s.values) for s in found} == {6}


@needs_lm_eval
def test_a_near_miss_of_our_own_tasks_is_named(folder, monkeypatch):
    import lm_eval.tasks

    real = lm_eval.tasks.TaskManager
    local = lambda **kwargs: real(**{**kwargs, "include_defaults": False})  # noqa: E731
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", local)
    with pytest.raises(UserError, match='unknown task "gramar"; did you mean "grammar"'):
        evaluate(folder / "retention", ["gramar"], folder / "out", Options())


@needs_lm_eval
def test_a_study_of_tasks_runs_and_says_its_scores(folder):
    planned(folder)
    loaded, source = study.load(str(folder / "tasks.yaml"))
    console = Console(file=io.StringIO(), width=200)
    summary = running.run(loaded, source, folder / "run", console)
    assert (summary.cells, summary.failed) == (2, 0)
    for line in console.file.getvalue().splitlines():
        assert re.search(r"ok .* acc [01]\.?\d*, acc_norm [01]", line)
    scored = scores(read_records(folder / "run"))
    assert list(scored["arm"]) == ["retnet", "retnet", "transformer", "transformer"]


def test_other_weights_make_another_cell(folder):
    """D10: lm-eval's cache answers for another model."""
    before = [p.cell.cell_id for p in planned(folder)[0]]
    model, meta = checkpoint.load(folder / "retention")
    model.embedding.weight.data[0, 0] += 1
    checkpoint.save(model, folder / "retention", meta)
    after = [p.cell.cell_id for p in planned(folder)[0]]
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_a_checkpoint_of_another_shape_is_refused(folder):
    [pair] = planned(folder, lambda text: text.replace("size: 0.1M", "size: 0.4M"))
    with pytest.raises(UserError, match=r"its d_\w+ is \d+, the cell's \d+|its n_\w+ is"):
        WORKLOADS["downstream"](pair[0].cell).prepare()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    axes: {task: [pick]}", "", "task is missing"),
        (", checkpoint: {folder}/retention", "", r"arms\.retnet\.checkpoint is missing"),
        ("{folder}/retention", "{folder}/none", r"arms\.retnet\.checkpoint: there is no folder"),
    ],
)
def test_a_study_that_lacks_what_downstream_needs(folder, old, new, message):
    old, new = (text.replace("{folder}", str(folder)) for text in (old, new))
    with pytest.raises(UserError, match=message):
        planned(folder, lambda text: text.replace(old, new))
