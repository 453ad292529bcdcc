"""Every column of the results table, declared once: name, type, unit and meaning.

History of SCHEMA_VERSION
1  first version.
2  columns learning_rate, task and the group "cost".
3  `phase` and `position` mean one thing each; what else they meant are columns of their own: check,
   context, shots, filter, score, context_length, tokens_seen and step (`coordinates`). `baseline`
   names the arm that others are compared with. The text of
   an environment stands in the first row that has it; the others name its environment_id.
4  columns pairs and key_dim (recall).
5  columns tokens_per_param and tuned (perplexity).
6  column candidate (kernels that were timed).
7  column new_tokens (generate).
8  column parallel (a cell that several processes run together).
9  columns score_split (perplexity) and corpus_checksum, score_corpus_checksum, tokenizer_checksum.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

SCHEMA_VERSION = 9
VERSION_KEY = b"retnet_bench_schema_version"

_TYPES = {
    "string": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "floats": pa.list_(pa.float64()),
    "time": pa.timestamp("us", tz="UTC"),
}


WORKLOADS = (
    *("train", "prefill", "decode", "generate"),
    *("perplexity", "tune", "recall", "downstream"),
)
OK_STATUSES = ("ok", "impure")
"""Statuses of rows that carry a measured value."""


@dataclass(frozen=True)
class Column:
    """One column. `group` orders the documentation; `unit` is empty for names and flags."""

    name: str
    type: str
    group: str
    meaning: str
    unit: str = ""
    required: bool = False


def _group(group: str, *rows: tuple) -> list[Column]:
    return [Column(row[0], row[1], group, row[2], *row[3:]) for row in rows]


COLUMNS: list[Column] = [
    *_group(
        "identity",
        ("study", "string", "name of the study", "", True),
        ("run_id", "string", "one call of `retnet-bench run`", "", True),
        ("cell_id", "string", "hash of the cell's canonical JSON", "", True),
        ("pair_id", "string", "hash of what the arms of a pair have in common", "", True),
        ("arm", "string", "one architecture's side of the comparison", "", True),
        (
            "baseline",
            "string",
            "the arm that others are compared with, as the study said then; `show` and `plot` take "
            "the one that the study.yaml beside names now",
        ),
        ("workload", "string", f"what was done: {', '.join(WORKLOADS)}", "", True),
        ("recorded_at", "time", "when the cell was finished", "", True),
    ),
    *_group(
        "measurement",
        ("metric", "string", "what the value is; the name ends in its unit", "", True),
        ("unit", "string", "unit of `value` and `samples`", "", True),
        (
            "phase",
            "string",
            "part of the work: check, warmup, train, prefill, decode, generate, perplexity, "
            "recall, tune, validate, score, downstream, choice (of a kernel), or stop (when the "
            "blocks ended)",
        ),
        (
            "check",
            "string",
            "what was compared before timing: the forms in fp64, fp32, ..., or a mode and eager",
        ),
        ("candidate", "string", "kernel and chunk that were timed, to choose between them"),
        ("process", "int", "index of the worker process among this cell's processes"),
        ("block", "int", "index of the block inside its process"),
        ("order", "int", "place of the block in the interleaved order of the pair"),
        (
            "position",
            "int",
            "place in the sequence: of a decoded token, or where a bucket of tokens ends",
            "tokens",
        ),
        ("context", "string", "what a score was given: chunked, sliding, carried or window"),
        ("context_length", "int", "tokens of context that a score was given", "tokens"),
        ("tokens_seen", "int", "tokens trained on so far", "tokens"),
        ("step", "int", "training steps so far", "steps"),
        ("pairs", "int", "keys with a value in each sequence (recall)"),
        ("shots", "int", "solved examples in front of each question (downstream)"),
        ("filter", "string", "lm-eval's filter of the answers (downstream)"),
        ("score", "string", "lm-eval's name of a metric that has none here (downstream)"),
        ("document", "string", "name of the scored document (perplexity)"),
        ("value", "float", "median of `samples`, for convenience; null when not measured"),
        ("samples", "floats", "raw values in the order they were taken"),
    ),
    *_group(
        "outcome",
        (
            "status",
            "string",
            "ok, impure, unavailable, unsupported, incorrect, oom, killed, timeout, nan, diverged, "
            "crash or error",
            "",
            True,
        ),
        (
            "reason",
            "string",
            "why the status is not ok, why the value is null, or why the blocks ended",
        ),
        ("stderr_tail", "string", "last lines the worker wrote to stderr, when it failed"),
    ),
    *_group(
        "contract",
        ("size", "string", "size of the model: a row of `retnet-bench list sizes`"),
        ("block_family", "string", "paper or modern"),
        ("match", "string", "what the arms have equal: params, train_flops, state or none"),
        ("mismatch", "float", "residual relative difference of the matched quantity"),
        ("batch", "int", "sequences in a batch", "sequences"),
        (
            *("length", "int"),
            *("sequence length; of decode the last position, of generate the prompt", "tokens"),
        ),
        ("new_tokens", "int", "tokens generated after the prompt (generate)", "tokens"),
        ("dtype", "string", "fp64, fp32, bf16 or fp16"),
        ("mode", "string", "eager, compile or cudagraph"),
        ("device", "string", "torch device the cell ran on"),
        ("threads", "int", "intra-op threads of the worker", "threads"),
        (
            "parallel",
            "string",
            "the ranks that ran the cell together: data (each with the whole model), fsdp (weights "
            "shared) and tensor (heads shared); null: one process",
        ),
        ("corpus", "string", "where the tokens come from"),
        (
            "score_split",
            "string",
            "documents that were scored: valid, or test, which had no part in a choice "
            "(perplexity, tune)",
        ),
        ("tokenizer", "string", "byte, or bpe:<vocabulary size>"),
        ("vocab_size", "int", "rows of the embedding", "tokens"),
        ("seed", "int", "seed of weights and data order"),
        ("token_budget", "int", "tokens trained on (perplexity)", "tokens"),
        (
            "tokens_per_param",
            "float",
            "tokens for each body parameter, where the study says the budget so (perplexity)",
        ),
        (
            "tuned",
            "string",
            "settings that each arm of the pair has from its own sweep, and so not in common: "
            "learning_rate, batch, ... (perplexity)",
        ),
        ("learning_rate", "float", "peak learning rate (perplexity, recall)"),
        ("key_dim", "int", "key dimension of every arm's heads, where the study says it (recall)"),
        ("task", "string", "evaluation task (downstream)"),
    ),
    *_group(
        "model",
        ("mixer", "string", "token mixer: retention, attention, ..."),
        ("kernel", "string", "kernel asked for; auto: the fastest of the candidates"),
        ("kernel_dispatched", "string", "kernel that actually ran"),
        ("chunk", "int", "chunk length of chunkwise retention", "tokens"),
        ("d_model", "int", "model width"),
        ("n_layers", "int", "number of blocks"),
        ("n_heads", "int", "number of heads"),
        ("d_key", "int", "total width of queries and keys"),
        ("d_value", "int", "total width of values"),
        ("d_ffn", "int", "width of the feed-forward"),
        ("decay", "string", "decay schedule: experiments, eq8, single or none"),
        ("gate", "bool", "whether the swish gate is on"),
        ("head_norm", "string", "per-head norm: group, rms or none"),
        ("n_params", "int", "all parameters", "parameters"),
        ("n_body_params", "int", "parameters without the embedding", "parameters"),
        ("flops_per_token", "float", "training matmul FLOPs per token at this length", "flop"),
        ("state_bytes", "int", "recurrent state or KV cache at `length`, whole batch", "bytes"),
    ),
    *_group(
        "cost",
        ("predicted", "float", "what the cost model predicts for `value`, in the same unit"),
        ("roofline_s", "float", "least seconds by the device's rates; null when unknown", "s"),
        ("bound", "string", "term that sets `roofline_s`: compute, bandwidth, launch or link"),
        ("flops_utilisation", "float", "model FLOP/s reached over the device's peak", "relative"),
        ("bandwidth_utilisation", "float", "least bytes/s over the device's peak", "relative"),
    ),
    *_group(
        "machine",
        ("machine", "string", "short name of processor and device", "", True),
        ("fingerprint", "string", "hash of the stable environment fields", "", True),
        ("torch_version", "string", "torch build"),
        ("git_revision", "string", "revision of retnet-bench, when run from a checkout"),
        ("git_dirty", "bool", "whether the checkout had changes"),
    ),
    *_group(
        "provenance",
        ("cell_json", "string", "canonical JSON of the whole cell", "", True),
        ("protocol_json", "string", "JSON of the protocol in force"),
        ("environment_id", "string", "hash of the whole environment's JSON"),
        ("environment_json", "string", "that JSON, in the first row of a part that refers to it"),
        ("corpus_checksum", "string", "sha256 of the texts of `corpus` as the cell read them"),
        ("score_corpus_checksum", "string", "the same of another corpus that was scored"),
        ("tokenizer_checksum", "string", "sha256 of what defines the tokenizer"),
        ("schema_version", "int", "version of this table's layout", "", True),
    ),
]


@dataclass(frozen=True)
class Metric:
    """One kind of value. `workload` is the one it belongs to; empty where several measure it."""

    name: str
    unit: str
    workload: str
    meaning: str


_ONCE = "one row per process, phase `warmup`"
_GPU = "of the GPU, sampled every 0.1 s of the block"
_ENERGY = "of the block, at least 2 s long"
_EACH = "samples: one a document"
_HIT = "they end a bigram seen before in their context and rare in training (setting `ar_hits`)"
_ASKED = "in phase `validate` or `score`, of sequences of `pairs` pairs"
_PEAK = "highest during `phase` (train, prefill, decode or generate)"
OF_RANKS = (
    *("weight_bytes", "state_bytes", "peak_rss_bytes", "peak_tensor_bytes"),
    *("cuda_peak_allocated_bytes", "cuda_peak_reserved_bytes", "nvml_used_bytes"),
)
"""Memory that each rank of a world has for itself."""
METRICS: dict[str, Metric] = {
    row[0]: Metric(*row)
    for row in (
        ("train_step_s", "s", "train", "consecutive training steps of one block"),
        ("prefill_s", "s", "prefill", "reading the whole prompt of `length` tokens, whole batch"),
        ("decode_step_s", "s", "decode", "consecutive steps at `position`, whole batch"),
        (
            "request_s",
            "s",
            "generate",
            "prompt in and all new tokens out, whole batch; one a sample",
        ),
        ("first_token_s", "s", "generate", "until the first of them: the same requests"),
        ("output_token_s", "s", "generate", "each token after it: the mean of the same requests"),
        ("first_step_s", "s", "", f"the first step, compilation included; {_ONCE}"),
        ("compile_s", "s", "", f"the first step less a warm one, unless eager; {_ONCE}"),
        ("warmup_s", "s", "", f"time until the steps were steady; {_ONCE}"),
        ("warmup_steps", "steps", "", f"steps until they were steady; {_ONCE}"),
        ("peak_rss_bytes", "bytes", "", f"resident memory of the process, {_PEAK}"),
        ("peak_tensor_bytes", "bytes", "", f"memory of all tensors, {_PEAK}"),
        ("cuda_peak_allocated_bytes", "bytes", "", f"CUDA memory in tensors, {_PEAK}"),
        ("cuda_peak_reserved_bytes", "bytes", "", f"CUDA memory held by the allocator, {_PEAK}"),
        ("nvml_used_bytes", "bytes", "", f"memory of the GPU in use as NVML sees it, {_PEAK}"),
        ("weight_bytes", "bytes", "", "parameters of the model"),
        ("state_bytes", "bytes", "", "KV cache or retention state, whole batch"),
        *(
            (
                *(f"rank_{name}", "bytes", ""),
                f"{name} of each rank of a world; samples: one a rank, of which the largest stands "
                f"under {name}",
            )
            for name in OF_RANKS
        ),
        (
            "forms_relative_error",
            "relative",
            "",
            "disagreement of the three forms, or of a mode and eager; see `check`",
        ),
        (
            *("candidate_step_s", "s", ""),
            "steps of `candidate` where `kernel` or `chunk` is auto; `reason` says which was taken",
        ),
        ("timed_s", "s", "", "time the blocks of the pair took; `reason` says what ended them"),
        (
            *("half_width_relative", "relative", ""),
            "half of the 95 % interval of the pair's log-ratio when the blocks ended",
        ),
        (
            *("loss_after_steps_nat", "nat", "train"),
            "loss of training step `step`, counted from the first: equal wherever the code is",
        ),
        (
            *("train_loss_nat", "nat", ""),
            "training loss after `tokens_seen` tokens, per token (recall: per query)",
        ),
        ("tokens_trained", "tokens", "", "tokens of the whole training"),
        ("epochs", "epochs", "", "how often the training read the corpus's train split"),
        (
            *("training_tokens_per_second", "tokens/s", ""),
            "tokens of the whole training over its time: one reading, alone, not by the protocol",
        ),
        (
            *("chosen_learning_rate", "", "perplexity"),
            "peak learning rate that the arm's sweep led to; `reason` says how",
        ),
        (
            *("validation_nll_nat", "nat", "tune"),
            "negative log-likelihood of `document`, of those to choose by",
        ),
        ("validation_bytes", "bytes", "tune", "bytes of `document`"),
        ("document_nll_nat", "nat", "perplexity", "negative log-likelihood of `document`"),
        ("document_tokens", "tokens", "perplexity", "scored tokens of `document`"),
        ("document_words", "words", "perplexity", "words of `document`"),
        ("document_bytes", "bytes", "perplexity", "bytes of `document`"),
        ("ar_hit_nll_nat", "nat", "perplexity", f"of the AR hits of `document`: {_HIT}"),
        ("ar_hit_tokens", "tokens", "perplexity", "tokens in `ar_hit_nll_nat`"),
        ("ar_other_nll_nat", "nat", "perplexity", "of all other tokens of `document`"),
        ("ar_other_tokens", "tokens", "perplexity", "tokens in `ar_other_nll_nat`"),
        ("recall_correct", "count", "recall", f"queries answered right: {_ASKED}"),
        ("recall_queries", "count", "recall", f"queries asked: {_ASKED}"),
        ("recall_nll_nat", "nat", "recall", "negative log-likelihood of all their answers"),
        (
            "training_s",
            "s",
            "recall",
            "time of the whole training: one reading, alone",
        ),
        (
            *("sequence_state_bytes", "bytes", "recall"),
            "state that the model holds of one sequence after `length` tokens",
        ),
        ("gpu_sm_clock_mhz", "mhz", "", f"clock of the multiprocessors {_GPU}"),
        ("gpu_memory_clock_mhz", "mhz", "", f"clock of the memory {_GPU}"),
        ("gpu_power_w", "w", "", f"power {_GPU}"),
        ("gpu_temperature_c", "c", "", f"temperature {_GPU}"),
        ("gpu_throttle_bits", "bits", "", f"mask of NVML's clocks event reasons {_GPU}"),
        ("gpu_foreign_bytes", "bytes", "", f"memory of other processes {_GPU}"),
        ("gpu_energy_j", "j", "", f"by the driver's energy counter, {_ENERGY}"),
        ("gpu_integrated_energy_j", "j", "", f"power over time, without such a counter, {_ENERGY}"),
        ("cpu_energy_j", "j", "", f"all processor packages and all their users (RAPL), {_ENERGY}"),
        ("energy_window_s", "s", "", "how long the energy of the block was counted"),
        ("cpu_frequency_mhz", "mhz", "", "mean clock of the allowed cores at the block's end"),
        ("cpu_wait_share", "relative", "", "time of the block that threads waited for a core"),
        ("foreign_cpu_share", "relative", "", "what others used of the allowed cores' time"),
        (
            "context_nll_nat",
            "nat",
            "perplexity",
            "the same tokens of `document` from `context_length` tokens before the window's end",
        ),
        ("context_tokens", "tokens", "perplexity", "tokens in `context_nll_nat`"),
        (
            "position_nll_nat",
            "nat",
            "perplexity",
            "tokens of `document` up to `position` and beyond the previous one",
        ),
        ("position_tokens", "tokens", "perplexity", "tokens in `position_nll_nat`"),
        ("acc", "fraction", "downstream", f"documents answered right; {_EACH}"),
        ("acc_norm", "fraction", "downstream", f"the same by likelihood per byte; {_EACH}"),
        ("exact_match", "fraction", "downstream", f"documents continued to the letter; {_EACH}"),
        ("f1", "fraction", "downstream", "F1 over the documents"),
        ("mcc", "relative", "downstream", "Matthews correlation over the documents"),
        ("perplexity", "relative", "downstream", "exp of the mean nat of a continuation"),
        ("word_perplexity", "relative", "downstream", "exp of the nats per word"),
        ("byte_perplexity", "relative", "downstream", "exp of the nats per byte"),
        ("bits_per_byte", "bit", "downstream", "bits per byte of the documents"),
        ("other_score", "", "downstream", f"a metric that `score` names; {_EACH}"),
        (
            "request_loglikelihood_nat",
            "nat",
            "downstream",
            "ln P of every answer asked about, documents in order; one row per task",
        ),
        ("document_requests", "count", "downstream", "answers asked about, per document"),
        ("scored_words", "words", "downstream", f"words that word_perplexity is per; {_EACH}"),
        ("scored_bytes", "bytes", "downstream", f"bytes that bits_per_byte is per; {_EACH}"),
        ("outcome", "", "", "the only row of a cell that failed; see `status` and `reason`"),
    )
}

TIMES = {
    "train": "train_step_s",
    "prefill": "prefill_s",
    "decode": "decode_step_s",
    "generate": "request_s",
}
"""The metric of METRICS that a timed workload is judged by."""
PARTS = ("first_token_s", "output_token_s")
"""Times of parts of what a workload is judged by; arms are compared in them, too."""
CANDIDATE = "candidate_step_s"
"""The metric of what was tried where an arm leaves its kernel or chunk open."""
EXACT = ("peak_tensor_bytes", "weight_bytes", "state_bytes")
"""Metrics that are counted, not sampled: one reading of them is the whole truth."""
NAMES = [column.name for column in COLUMNS]
STATUSES = (
    "ok",
    "impure",
    "unavailable",
    "unsupported",
    "incorrect",
    "oom",
    "killed",
    "timeout",
    "nan",
    "diverged",
    "crash",
    "error",
)


def arrow_schema() -> pa.Schema:
    """The table's Arrow schema, with the version in its metadata."""
    fields = [
        pa.field(
            c.name,
            _TYPES[c.type],
            nullable=not c.required,
            metadata={"unit": c.unit, "meaning": c.meaning},
        )
        for c in COLUMNS
    ]
    return pa.schema(fields, metadata={VERSION_KEY: str(SCHEMA_VERSION).encode()})
