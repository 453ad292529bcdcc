"""lm-eval through our adapter: known answers, a naive computation, and what training teaches."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path

import pytest
import tokenizers as hf
import torch
from fakes.options import options_of

from retnet_bench.base import UserError
from retnet_bench.data import load_corpus, load_tokenizer
from retnet_bench.data.tokenizer_file import load_tokenizer_file
from retnet_bench.models import LanguageModel, match
from retnet_bench.workloads import Sample, downstream
from retnet_bench.workloads.scorer import Scorer

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed (extra eval)")
BYTE = load_tokenizer("byte", load_corpus("random"))
MIXERS = {"retention": "chunkwise", "attention": "sdpa"}
NOUNS = {"dog": "dogs", "cat": "cats", "king": "kings", "tree": "trees", "boat": "boats"}
VERBS = {"runs": "run", "sees": "see", "falls": "fall", "waits": "wait"}
BETWEEN = ("", " near the {}", " with the {}")


def sentence(dice: random.Random) -> tuple[str, str, str]:
    """A subject (with a distractor of any number), its verb, and the verb of the other number.

    Verbs end in a full stop: " run" begins " runs", and so would always be the likelier one.
    """
    noun, verb = dice.choice([*NOUNS.items()]), dice.choice([*VERBS.items()])
    plural = dice.random() < 0.5
    distractor = dice.choice([*NOUNS, *NOUNS.values()])
    text = f"the {noun[plural]}{dice.choice(BETWEEN).format(distractor)}"
    return text, f"{verb[plural]}.", f"{verb[not plural]}."


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """A folder of three local tasks over generated sentences, never used in training."""
    folder, dice = tmp_path_factory.mktemp("tasks"), random.Random(1)
    rows = []
    for _ in range(64):
        text, right, wrong = sentence(dice)
        label = dice.randrange(2)
        choices = [right, wrong] if label == 0 else [wrong, right]
        whole = f"{text} {right}"
        rows.append({"context": text, "choices": choices, "label": label, "text": whole})
    data, examples = folder / "sva.jsonl", folder / "examples.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows[:60]))
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows[60:]))
    files = f"{{test: {data}, train: {examples}}}"
    common = f"dataset_path: json\ndataset_kwargs: {{data_files: {files}}}\n"
    common += "test_split: test\nfewshot_split: train\n"
    (folder / "sva.yaml").write_text(
        f'task: sva\n{common}output_type: multiple_choice\ndoc_to_text: "{{{{context}}}}"\n'
        "doc_to_choice: choices\ndoc_to_target: label\n"
        "metric_list: [{metric: acc}, {metric: acc_norm}]\n"
        "fewshot_config: {sampler: first_n}\n"
    )
    weighted = "aggregation: weighted_perplexity, higher_is_better: false"
    (folder / "ppl.yaml").write_text(
        f'task: ppl\n{common}output_type: loglikelihood_rolling\ndoc_to_text: ""\n'
        'doc_to_target: "{{text}}"\nmetric_list:\n'
        f"- {{metric: word_perplexity, {weighted}}}\n- {{metric: byte_perplexity, {weighted}}}\n"
        "- {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}\n"
    )
    (folder / "written.yaml").write_text(
        f'task: written\n{common}output_type: generate_until\ndoc_to_text: "{{{{context}}}}"\n'
        'doc_to_target: " {{choices[label][:-1]}}"\n'
        'generation_kwargs: {until: ["."], max_gen_toks: 7}\n'
        "metric_list: [{metric: exact_match}]\n"
    )
    return folder


@pytest.fixture(autouse=True)
def offline(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    cache = tmp_path_factory.getbasetemp() / "datasets"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)


def model_of(mixer: str, seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    options = options_of(mixer, chunk=32)
    return LanguageModel(match("0.1M", mixer, kernel=MIXERS[mixer], options=options).config)


def run(model: LanguageModel, names: list[str], folder: Path, **options) -> list[Sample]:
    manager = downstream.find_tasks(names, str(folder))
    scorer = Scorer(model.eval(), downstream.LENGTH)
    return downstream.evaluate(scorer, BYTE, names, manager, **options)


def value(samples: list[Sample], metric: str, task: str) -> float:
    [found] = [s for s in samples if (s.metric, s.coordinates["task"]) == (metric, task)]
    return found.value if found.value is not None else math.nan


def uniform_over_bytes(mixer: str) -> LanguageModel:
    """P = 1/256 for every byte, whatever came before, and 0 for <bos>."""
    model = model_of(mixer)
    with torch.no_grad():
        model.norm.weight.zero_()
        model.norm.bias.zero_()
        model.norm.bias[0] = 1.0
        model.embedding.weight[:, 0] = 0.0
        model.embedding.weight[BYTE.bos_id, 0] = -1e4
    return model


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_model_with_a_known_answer_scores_it(mixer, tasks):
    samples = run(uniform_over_bytes(mixer), ["ppl", "sva"], tasks, shots=0)
    rows = [json.loads(line) for line in (tasks / "sva.jsonl").read_text().splitlines()]
    n_bytes = sum(len(row["text"]) for row in rows)
    n_words = sum(len(row["text"].split(" ")) for row in rows)
    assert value(samples, "bits_per_byte", "ppl") == pytest.approx(8.0, abs=1e-5)
    assert value(samples, "byte_perplexity", "ppl") == pytest.approx(256.0, rel=1e-5)
    expected = math.exp(n_bytes * math.log(256) / n_words)
    assert value(samples, "word_perplexity", "ppl") == pytest.approx(expected, rel=1e-4)
    shorter = [min((0, 1), key=lambda i: len(row["choices"][i])) for row in rows]
    right = sum(a == row["label"] for a, row in zip(shorter, rows, strict=True)) / len(rows)
    assert value(samples, "acc", "sva") == pytest.approx(right)


@torch.no_grad()
def naive(model: LanguageModel, context: str, continuation: str) -> float:
    """One whole forward pass for one request."""
    ids = [BYTE.bos_id, *context.encode(), *continuation.encode()]
    logprobs = model(torch.tensor([ids[:-1]]))[0].double().log_softmax(-1)
    places = range(len(ids) - 1 - len(continuation.encode()), len(ids) - 1)
    return sum(logprobs[i, ids[i + 1]].item() for i in places)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("shots", [0, 4])
def test_scores_equal_a_naive_computation_request_by_request(mixer, shots, tasks, monkeypatch):
    from retnet_bench.workloads.lm_eval_adapter import Adapter

    model, asked = model_of(mixer, seed=2), []
    pairs_of = Adapter._pairs
    monkeypatch.setattr(
        Adapter, "_pairs", lambda s, r: asked.extend(one.args for one in r) or pairs_of(s, r)
    )
    samples = run(model, ["sva", "ppl"], tasks, shots=shots, limit=12)
    rows = [json.loads(line) for line in (tasks / "sva.jsonl").read_text().splitlines()]
    found = {s.coordinates["task"]: s for s in samples if s.metric == "request_loglikelihood_nat"}
    whole = [naive(model, "", row["text"]) for row in rows[:12]]
    assert found["ppl"].values == pytest.approx(whole, abs=2e-3)
    wanted = [(r["context"], f" {c}") for r in rows[:12] for c in r["choices"]]
    assert [(text[-len(end[0]) :], c) for (text, c), end in zip(asked, wanted)] == wanted
    assert all(text.count("\n\n") == shots for text, _ in asked)
    each = [naive(model, *request) for request in asked]
    assert found["sva"].values == pytest.approx(each, abs=2e-3)
    pairs = zip(each[::2], each[1::2], rows, strict=False)
    right = [(a < b) == row["label"] for a, b, row in pairs]
    [acc] = [s for s in samples if s.metric == "acc"]
    assert acc.values == tuple(map(float, right))
    assert acc.value == pytest.approx(sum(right) / 12)


@pytest.mark.parametrize("mixer", MIXERS)
def test_four_shots_that_all_documents_share_are_read_once(mixer, tasks, monkeypatch):
    model = model_of(mixer)
    read, prefill = [0], model.prefill

    def counted(tokens, state, every=False):
        read[0] += tokens.numel()
        return prefill(tokens, state, every)

    asked = []
    score = Scorer.score
    monkeypatch.setattr(model, "prefill", counted)
    monkeypatch.setattr(Scorer, "score", lambda s, r: asked.extend(r) or score(s, r))
    run(model, ["sva"], tasks, shots=4, limit=12)
    contexts = {request.context for request in asked}
    stem = len(os.path.commonprefix([*contexts]))  # noqa: RUF071  (of tuples, not of paths)
    assert stem > 80  # bytes: four examples
    least = stem + sum(len(context) - 1 - stem for context in contexts)
    answers = [len(request.continuation) for request in asked]
    least += sum(answers)
    padding = len(answers) * (max(answers) - min(answers))
    assert least <= read[0] <= least + padding
    assert read[0] < sum(request.length for request in asked) / 2


def train(model: LanguageModel, steps: int = 120) -> LanguageModel:
    """On generated sentences, 32 of them a step, each after <bos>."""
    dice = random.Random(0)
    adamw = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for step in range(steps):
        texts = [" ".join(sentence(dice)[:2]) for _ in range(32)]
        longest = max(map(len, texts))
        ids = [[BYTE.bos_id, *text.encode(), *[32] * (longest - len(text))] for text in texts]
        tokens = torch.tensor(ids)
        adamw.param_groups[0]["lr"] = 4e-3 * min(1, (step + 1) / 20) * (1 - step / steps)
        loss = model.loss(tokens[:, :-1], tokens[:, 1:])
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
    return model


@pytest.mark.parametrize("mixer", MIXERS)
def test_training_teaches_subject_verb_agreement(mixer, tasks):
    samples = run(train(model_of(mixer)), ["sva", "ppl", "written"], tasks, shots=0)
    # 60 documents, two choices: 0.5 by chance, and above 0.7 in fewer than 1 of 1000 draws.
    assert value(samples, "acc", "sva") > 0.7
    assert value(samples, "bits_per_byte", "ppl") < 1.5
    # One of eight verb forms by chance; the model cannot know which verb, only its number.
    assert 0.0 < value(samples, "exact_match", "written") < 0.7


# --- a tokenizer of whole words ------------------------------------------------------------------


@pytest.fixture
def words(tmp_path):
    """Splits "hello world is" into three tokens, and "hello wor" into two; knows no emoji."""
    merges = [("h", "e"), ("he", "l"), ("hel", "l"), ("hell", "o"), ("Ġ", "w"), ("Ġw", "o")]
    merges += [("Ġwo", "r"), ("l", "d"), ("Ġwor", "ld"), ("Ġ", "i"), ("Ġi", "s")]
    tokens = ["<s>", "</s>", *"heloĠwrdis.", *map("".join, merges)]
    vocab = {token: i for i, token in enumerate(tokens)}
    model = hf.Tokenizer(hf.models.BPE(vocab, merges))
    model.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = hf.decoders.ByteLevel()
    model.add_special_tokens(["<s>", "</s>"])
    model.save(str(tmp_path / "tokenizer.json"))
    return load_tokenizer_file(tmp_path / "tokenizer.json")


def adapter_of(tokenizer, ends=()):
    from retnet_bench.workloads.lm_eval_adapter import Adapter

    return Adapter(Scorer(model_of("attention").eval(), 64, ends=ends), tokenizer)


PAIRS = [
    ("hello", " world"),
    ("hello ", "world is"),
    ("hello wor", "d"),
    ("hello wor", "ld is"),
    ("hello  ", " is"),
    ("", "hello"),
    ("", "<s>hello"),
    ("<s>hello", " is"),
]


@pytest.mark.parametrize(("context", "continuation"), PAIRS)
def test_an_answer_has_the_ids_that_lm_eval_gives_it(context, continuation, words):
    """Its own models begin with <bos> where their tokenizer does."""
    from lm_eval.api.model import TemplateLM

    class Theirs(TemplateLM):
        eot_token_id = 0
        generate_until = loglikelihood_rolling = None

        def tok_encode(self, string, add_special_tokens=None):
            ids = words.encode(string).tolist()
            return ids if add_special_tokens is False or ids[:1] == [0] else [0, *ids]

        def _loglikelihood_tokens(self, requests, **kwargs):
            return [request[1:] for request in requests]

    from lm_eval.api.instance import Instance

    asked = Instance("loglikelihood", {}, (context, continuation), 0)
    [(context_ids, continuation_ids)] = Theirs().loglikelihood([asked], disable_tqdm=True)
    request = adapter_of(words).encode_pair(context, continuation)
    assert list(request.context) == context_ids
    assert list(request.continuation) == continuation_ids


def test_an_answer_by_hand(words):
    hello, wor, world, end = words.encode("hello wor world is").tolist()
    assert words.decode([world]) == " world"
    request = adapter_of(words).encode_pair("hello wor", "ld is")
    assert request.context == (0, hello, wor)
    assert request.continuation == (end,)  # what comes after " world", which the context hides


@pytest.mark.parametrize(
    ("context", "answer"), [("hello wor", "ld"), ("hello", ""), ("", ""), ("hello", "🙂")]
)
def test_an_answer_without_a_token_of_its_own_is_refused(context, answer, words):
    """It would have ln P = 0, and always win."""
    with pytest.raises(UserError, match=f'the answer "{answer}" after .* has no token of its own'):
        adapter_of(words).encode_pair(context, answer)


def instance(task: str, *arguments):
    from lm_eval.api.instance import Instance

    return Instance("generate_until", {}, arguments, 0, metadata=(task, 0, 1))


@pytest.mark.parametrize(
    ("ends", "options", "text"),
    [
        ((), {"max_new_tokens": 6}, "hello hello hello"),
        ((), {"max_completion_tokens": 2}, "hello "),
        ((1,), {"max_gen_toks": 6}, "hello hello"),
        ((7, 1), {"until": ["", None]}, "hello hello"),
        ((1,), {"until": [" "]}, "hello"),
    ],
)
def test_text_ends_at_an_id_of_the_config(ends, options, text, words, monkeypatch):
    hello, blank = words.encode("hello").tolist() + words.encode(" ").tolist()
    said, adapter = [hello, blank, hello, 1, blank, hello], adapter_of(words, ends)

    def generate(contexts, most, done):
        """What the model says, until it is stopped."""
        stop = next(n for n in range(1, 7) if n == most or done(0, said[:n]))
        return [said[:stop]]

    monkeypatch.setattr(adapter.scorer, "generate", generate)
    assert adapter.generate_until([instance("t", "hello", options)]) == [text]


# --- what goes wrong ---------------------------------------------------------------------------


def test_lm_eval_writes_nothing(tasks, tmp_path, monkeypatch, capfd):
    """It asks git for the commit of the current folder, which says "fatal" outside of a repository,
    and draws bars."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    run(model_of("retention"), ["sva"], tasks, shots=0, limit=2)
    written = capfd.readouterr().err
    assert "fatal" not in written
    assert "it/s" not in written


def test_an_unknown_task_has_a_suggestion(tasks, monkeypatch):
    import lm_eval.tasks

    real = lm_eval.tasks.TaskManager  # lm-eval's own index would take half a minute
    local = lambda **kwargs: real(**{**kwargs, "include_defaults": False})  # noqa: E731
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", local)
    with pytest.raises(UserError, match='unknown task "sav"; did you mean "sva"'):
        downstream.find_tasks(["sav"], str(tasks))


def test_a_task_of_the_hub_while_offline_is_one_line(tasks, tmp_path):
    (tmp_path / "hub.yaml").write_text(
        "task: hub\ndataset_path: nobody/none\ntest_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{a}}"\ndoc_to_choice: b\ndoc_to_target: c\nmetric_list: [{metric: acc}]\n'
    )
    with pytest.raises(UserError, match=r"^hub: .*nobody/none.*; HF_HUB_OFFLINE is set"):
        run(model_of("retention"), ["hub"], tmp_path)


def test_a_missing_data_file_is_named(tmp_path):
    (tmp_path / "lost.yaml").write_text(
        "task: lost\ndataset_path: json\ndataset_kwargs: {data_files: {test: gone.jsonl}}\n"
        "test_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{a}}"\ndoc_to_choice: b\ndoc_to_target: c\nmetric_list: [{metric: acc}]\n'
    )
    with pytest.raises(UserError, match=r"a data file of lost can't be read: .*gone\.jsonl"):
        run(model_of("retention"), ["lost"], tmp_path)
