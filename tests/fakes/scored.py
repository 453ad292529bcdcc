"""Synthetic records of trained models whose losses obey known laws.

A document's loss is law * (1 + its own difficulty + the seed's luck + noise), so that the truth is
known, documents are shared by all arms, and seeds vary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from golden.records import Row, record

SIZES = {"a": 0.2e6, "b": 0.5e6, "c": 1e6, "d": 2e6, "e": 3.3e6}
DOCUMENTS = 12
TOKENS, BYTES = 1000.0, 3500.0
Law = Callable[[float, float], float]


def law(n_params: float, tokens: float) -> float:
    """nat per token: 1.5 + 1.2 (N / 1M)^-0.3 + 0.4 (D / 1M)^-0.5."""
    return 1.5 + 1.2 * (n_params / 1e6) ** -0.3 + 0.4 * (tokens / 1e6) ** -0.5


def crossing_law(n_params: float, tokens: float) -> float:
    """Equal to `law` at 1M parameters, above it below, below it above."""
    return law(n_params, tokens) - 0.08 * np.log(n_params / 1e6)


def parameters_law(n_params: float, tokens: float) -> float:
    """Hardly falls with tokens, so that the best size for any compute is far above SIZES."""
    return 1.0 + 3.0 * (n_params / 1e6) ** -0.2 + 0.05 * (tokens / 1e6) ** -0.5


def model(arm: str, size: str, seed: int, budget: int = 1_000_000, **fields: object) -> Row:
    """What all rows of one trained model share."""
    name = f"{size}-{seed}-{budget}"
    return {
        "workload": "perplexity",
        "size": size,
        "seed": seed,
        "token_budget": budget,
        "n_params": int(SIZES.get(size, 1e6)),
        "flops_per_token": 6 * SIZES.get(size, 1e6),
        "cell_id": f"{arm}-{name}",
        "pair_id": name,
        "arm": arm,
        "corpus": "sotu",
        "tokenizer": "bpe:2048",
    } | fields


def scored(
    loss: float, about: Row, seed_sd: float = 0.004, n: int = DOCUMENTS, kind: str = "document"
) -> Iterator[Row]:
    """Rows of `n` documents of one model; `about` from `model`."""
    difficulty = 0.05 * np.random.default_rng(7).standard_normal(n)
    random = np.random.default_rng(list(f"{about['cell_id']} {about.get('position')}".encode()))
    luck = np.random.default_rng(list(str(about["cell_id"]).encode())).standard_normal()
    counts = {"tokens": TOKENS, "words": 700.0, "bytes": BYTES}
    for i in range(n):
        noise = seed_sd * luck + 0.002 * random.standard_normal()
        values = {"nll_nat": TOKENS * loss * (1 + difficulty[i] + noise), **counts}
        for name, value in values.items():
            if kind == "document" or name in ("nll_nat", "tokens"):
                fields = about | {"document": f"year-{i}", "value": value}
                yield record(f"{kind}_{name}", **fields)


def scaling(
    laws: dict[str, Law] | None = None,
    seeds: int = 3,
    budgets: tuple[int, ...] = (1_000_000,),
    sizes: tuple[str, ...] = tuple(SIZES),
) -> Iterator[Row]:
    laws = laws or {"retnet": crossing_law, "transformer": law}
    for arm, of in laws.items():
        for size in sizes:
            for budget in budgets:
                for seed in range(seeds):
                    about = model(arm, size, seed, budget)
                    yield from scored(of(SIZES[size], budget), about)


def contexts(arms: dict[str, float]) -> Iterator[Row]:
    """Table 8's and the position's rows of the largest size, trained on 512 tokens."""
    for arm, gain in arms.items():
        for seed in range(3):
            about = model(arm, "e", seed)
            for context in (64, 128, 256, 512, 1024):
                loss = 2.5 - gain * np.log2(context / 64)
                yield from scored(loss, about | {"context_length": context}, kind="context")
            for end in (64, 128, 256, 512, 1024, 2048, 4096):
                loss = 2.5 - gain * np.log2(end / 64) + (0.1 if end > 512 else 0.0)
                yield from scored(loss, about | {"position": end}, kind="position")


def sweep(rates: tuple[float, ...] = (1e-3, 3e-3, 6e-3)) -> Iterator[Row]:
    """Two sizes, whose loss rises with the distance of the learning rate from 3e-3."""
    for arm in ("retnet", "transformer"):
        for size in ("a", "c"):
            for rate in rates:
                for seed in range(3):
                    about = model(arm, size, seed)
                    about |= {"learning_rate": rate, "pair_id": f"{about['pair_id']}-{rate}"}
                    about |= {"cell_id": f"{about['cell_id']}-{rate}"}
                    yield from scored(law(SIZES[size], 1e6) + abs(np.log(rate / 3e-3)) / 9, about)


def ar_hits(arms: dict[str, float]) -> Iterator[Row]:
    """Documents of which a quarter of the tokens are AR hits, at that loss; the others at 3 nat."""
    for arm, loss in arms.items():
        for seed in range(3):
            about = model(arm, "e", seed)
            yield from scored((loss + 3 * 3.0) / 4, about)
            for kind, nats, share in (("ar_hit", loss, 0.25), ("ar_other", 3.0, 0.75)):
                for row in scored(nats, about, kind=kind):
                    yield row | {"value": share * row["value"]}


def curves(arms: tuple[str, ...] = ("retnet", "transformer")) -> Iterator[Row]:
    for arm in arms:
        for size, n_params in SIZES.items():
            for seed in range(3):
                about = model(arm, size, seed)
                for seen in range(10_000, 1_000_001, 30_000):
                    loss = law(n_params, seen) + 0.02 * seed
                    yield record("train_loss_nat", **about, tokens_seen=seen, samples=[loss])


ABLATIONS = {
    "retnet": 0.0,
    "no_swish_gate": 0.02,
    "no_group_norm": 0.015,
    "no_decay": 0.03,
    "no_multi_scale": 0.01,
    "reduced_head_dimension": 0.012,
    "eq8_decay": -0.002,
    "modern_family": -0.02,
    "transformer": 0.0,
}
"""Arm -> how much larger its loss is than retnet's, relatively."""


def ablations() -> Iterator[Row]:
    for arm, more in ABLATIONS.items():
        family = "modern" if arm == "modern_family" else "paper"
        for seed in range(3):
            about = model(arm, "c", seed, block_family=family, baseline="retnet")
            yield from scored(law(1e6, 1e6) * (1 + more), about)


def speeds(study: str = "speed") -> Iterator[Row]:
    """Training, decoding and memory of the same arms and sizes, in another study."""
    for arm, factor in (("retnet", 1.0), ("transformer", 2.0)):
        for size, n_params in SIZES.items():
            shared = {"size": size, "n_params": int(n_params), "study": study, "run_id": study}
            for length in (512, 2048):
                for block in range(4):
                    seconds = factor * 1e-8 * n_params * length * (1 + 0.02 * block) / 512
                    about = shared | {"length": length, "batch": 4, "block": block}
                    about |= {
                        "cell_id": f"{study}-{arm}-{size}-{length}",
                        "pair_id": f"{size}-{length}",
                    }
                    yield record("train_step_s", arm, **about, samples=[seconds])
            about = shared | {"length": 2048, "batch": 2, "workload": "decode", "phase": "decode"}
            about |= {"cell_id": f"{study}-d-{arm}-{size}", "pair_id": f"d-{size}"}
            for block in range(4):
                for position in (1, 1024, 2048):
                    seconds = factor * (1e-3 + 1e-10 * n_params) * (1 + 0.01 * block)
                    at = about | {"block": block, "position": position, "samples": [seconds]}
                    yield record("decode_step_s", arm, **at)
            yield record("peak_tensor_bytes", arm, **about, value=factor * 5 * n_params)


def answers(arm: str, task: str, right: dict[int, int], n: int = 20) -> Iterator[Row]:
    """`right` answers out of `n`, by the number of solved examples in front."""
    for shots, count in right.items():
        about = model(
            arm, "a", 0, workload="downstream", task=task, cell_id=f"{arm}-{task}-{shots}"
        )
        samples = [1.0] * count + [0.0] * (n - count)
        yield record("acc", phase="score", shots=shots, samples=samples, value=count / n, **about)


def recall(
    arms: dict[str, dict[float, float]], seeds: int = 3, state: int = 8192, **fields: object
) -> Iterator[Row]:
    """Arms asked for 4, 8 and 16 pairs: by learning rate the share right of 16, of which the others
    fall short by a quarter and a half as much. Validation is 0.05 below the test."""
    for arm, rates in arms.items():
        for rate, share in rates.items():
            for seed in range(seeds):
                about = model(arm, "a", seed) | fields
                about |= {"workload": "recall", "learning_rate": rate, "token_budget": None}
                about |= {"cell_id": f"{about['cell_id']}-{rate}"}
                about |= {"pair_id": f"{about['pair_id']}-{rate}"}
                yield from _asked(share + 0.01 * (seed - 1), about)
                yield record("sequence_state_bytes", **about, phase="score", value=state)


def _asked(share: float, about: Row) -> Iterator[Row]:
    for phase, less in (("score", 0.0), ("validate", 0.05)):
        for pairs, part in ((4, 0.25), (8, 0.5), (16, 1.0)):
            right, queries = 1 - part * (1 - share) - less, 500.0 * pairs
            values = {"correct": queries * right, "queries": queries, "nll_nat": queries}
            for name, value in values.items():
                at = about | {"phase": phase, "pairs": pairs, "value": value}
                yield record(f"recall_{name}", **at)


def answered(right: dict[str, float], seeds: int = 3) -> list[Row]:
    """Two checkpoints of each arm and seed on three tasks; `right` is the share of the larger."""
    rows = []
    for arm, share in right.items():
        for size, less in (("a", 0.1), ("e", 0.0)):
            for seed in range(seeds):
                for task in ("grammar_filler_gap", "grammar_number_relative", "names_seen_far"):
                    random = np.random.default_rng(seed)
                    marks = (random.random(400) < share - less).astype(float).tolist()
                    about = model(arm, size, seed) | {
                        "workload": "downstream",
                        "cell_id": f"{arm}{size}{seed}{task}",
                        "cell_json": f'{{"checkpoint": "{arm}{size}{seed}", "weights": "w"}}',
                        "token_budget": None,
                    }
                    kept = {"samples": marks, "value": float(np.mean(marks))}
                    at = {"phase": "score", "task": task, "shots": 0}
                    rows.append(record("acc", **about, **at, **kept))
                    rows.append(record("tokens_trained", **about, phase="train", value=2e6))
    return rows
