"""Click logs: rows of categories, counts and a label. `load_clicks` is the entry point; they are written as

generated                    by a known logistic model, so that the best possible cross-entropy is known (ClickModel)
path:FILE_FOLDER_OR_GLOB     in Criteo's format, TSV or Parquet (click_files.py)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from workloads.base import BadInput

SPLITS = ("train", "validation", "test")
EXAMPLES = {"train": 2**19, "validation": 2**14, "test": 2**15}
VOCABULARIES = (4, 12, 30, 100, 300, 800, 1500, 3000)  # categories of every field
EXPONENTS = (0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.1, 1.2)  # of the Zipf laws: p(rank r) = r**-exponent / Z
COUNTS = 6  # dense features
CLICK_RATE = 0.25
_TASTES = 4  # size of the vectors whose products are the interactions
_STRENGTHS = {"category": 0.8, "interaction": 1.5, "count": 0.6, "cross": 0.8}  # standard deviations, in logits
_OVERDISPERSION = 1.0  # standard deviation of the log rate of a count


@dataclass(frozen=True, eq=False)
class Clicks:
    """categories: split -> (N, F) int32, counted on over the fields: below sum(vocabularies). counts: split -> (N, D)
    float32, log(1 + max(count, 0)). labels: split -> (N,) float32, 0 or 1. info: JSON-able facts. probabilities: split ->
    (N,) float64, the true probability of a click, where it is known.
    """

    categories: Mapping[str, np.ndarray]
    counts: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    vocabularies: tuple[int, ...]
    info: Mapping[str, Any]
    probabilities: Mapping[str, np.ndarray] | None = None

    @property
    def dense_features(self) -> int:
        return self.counts["train"].shape[1]


@dataclass(frozen=True)
class ClickModel:
    """Own construction. A row's categories c_f are independent, each from its field's Zipf law. Its counts are Poisson with
    log-normal rates whose mean depends on a category, as counts do that belong to a user or an item; x_d = log(1 + count),
    standardised. The logit of a click is

        b + sum_f m_f[c_f] + sum_{f < g} <v_f[c_f], v_g[c_g]> + sum_d h_d(x_d) + sum_d u_d[c_{f(d)}] x_d,

    m, u normal, v normal vectors of size 4, h_d(x) = a_d x + e_d |x|, and f(d) = d + 2 mod F. Each of the four sums is scaled
    to its standard deviation in _STRENGTHS, and b is such that a share of CLICK_RATE of the training rows is clicked.
    """

    seed: int = 0

    def draw(self) -> Clicks:
        """All splits, independent rows of one model (the same for the same seed)."""
        if self.seed < 0:
            raise BadInput(f"workload.generator_seed={self.seed} must be at least 0")
        total = sum(EXAMPLES.values())
        ids, counts = self._features(total)
        logits = self._logits(ids, counts, EXAMPLES["train"])
        probabilities = expit(logits)
        labels = np.random.default_rng([self.seed, 2]).random(total) < probabilities
        columns = (ids + _offsets(VOCABULARIES), np.log1p(counts), labels, probabilities)
        dtypes = (np.int32, np.float32, np.float32, np.float64)
        categories, dense, label, probability = (
            _split(column.astype(dtype)) for column, dtype in zip(columns, dtypes, strict=True)
        )
        info = {
            "source": "generated",
            "seed": self.seed,
            "vocabularies": list(VOCABULARIES),
            "examples": EXAMPLES,
            "click_rate": {split: float(label[split].mean()) for split in SPLITS},
            "bayes_cross_entropy": {split: expected_cross_entropy(probability[split]) for split in SPLITS},
            "oracle_cross_entropy": {split: cross_entropy(probability[split], label[split]) for split in SPLITS},
        }
        return Clicks(categories, dense, label, VOCABULARIES, info, probability)

    def _features(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows, F) category ranks from 0, (rows, D) counts."""
        rng = np.random.default_rng([self.seed, 0])
        ids = np.stack(
            [np.searchsorted(np.cumsum(law), rng.random(rows)) for law in map(zipf, VOCABULARIES, EXPONENTS)], axis=1
        )
        ids = np.minimum(ids, np.array(VOCABULARIES) - 1)
        level = np.stack([rng.normal(1.0, 0.7, VOCABULARIES[f])[ids[:, f]] for f in range(COUNTS)], axis=1)
        return ids, rng.poisson(np.exp(level + _OVERDISPERSION * rng.normal(size=level.shape)))

    def _logits(self, ids: np.ndarray, counts: np.ndarray, train: int) -> np.ndarray:
        """(rows,) true logits; scales and b come from the first `train` rows."""
        rng = np.random.default_rng([self.seed, 1])
        x = np.log1p(counts)
        x = (x - x[:train].mean(axis=0)) / x[:train].std(axis=0)
        mains = [rng.normal(size=size) for size in VOCABULARIES]
        tastes = [rng.normal(size=(size, _TASTES)).astype(np.float32) for size in VOCABULARIES]
        slopes, bends = rng.normal(size=(2, COUNTS))
        crosses = [rng.normal(size=VOCABULARIES[(d + 2) % len(VOCABULARIES)]) for d in range(COUNTS)]
        looked_up = np.stack([table[ids[:, f]] for f, table in enumerate(tastes)])
        parts = {
            "category": sum(table[ids[:, f]] for f, table in enumerate(mains)),
            # sum over pairs = half of what the square of the sum has beside the squares
            "interaction": np.square(looked_up.sum(axis=0)).sum(axis=1) - np.square(looked_up).sum(axis=(0, 2)),
            "count": x @ slopes + np.abs(x) @ bends,
            "cross": sum(table[ids[:, (d + 2) % len(VOCABULARIES)]] * x[:, d] for d, table in enumerate(crosses)),
        }
        logits = sum(
            _STRENGTHS[name] * (part - part[:train].mean()) / part[:train].std() for name, part in parts.items()
        )
        return np.asarray(logits + _intercept(np.asarray(logits)[:train]))


def zipf(size: int, exponent: float) -> np.ndarray:
    """(size,) float64: r**-exponent / Z for ranks r = 1, 2, ..."""
    weights = np.arange(1, size + 1, dtype=np.float64) ** -exponent
    return weights / weights.sum()


def cross_entropy(probability: np.ndarray | float, labels: np.ndarray) -> float:
    """Mean of -log P(label), in nats."""
    return float(-np.mean(np.log(np.where(labels > 0.5, probability, 1.0 - np.asarray(probability)))))


def expected_cross_entropy(probability: np.ndarray) -> float:
    """Mean entropy of labels that are 1 with these probabilities, in nats: what no model can go below in expectation."""
    p = probability
    return float(-np.mean(p * np.log(p) + (1.0 - p) * np.log1p(-p)))


def _intercept(logits: np.ndarray) -> float:
    """b such that the mean of sigmoid(logits + b) is CLICK_RATE, by bisection."""
    low, high = -20.0, 20.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if expit(logits + middle).mean() < CLICK_RATE else (low, middle)
    return low


def _offsets(vocabularies: tuple[int, ...]) -> np.ndarray:
    return np.cumsum((0, *vocabularies[:-1]))


def _split(column: np.ndarray) -> dict[str, np.ndarray]:
    ends = np.cumsum([EXAMPLES[split] for split in SPLITS])
    parts = dict(zip(SPLITS, np.split(column, ends[:-1]), strict=True))
    for part in parts.values():
        part.flags.writeable = False
    return parts


@functools.lru_cache(maxsize=2)
def generated(seed: int) -> Clicks:
    """The rows of ClickModel(seed), drawn once per process."""
    return ClickModel(seed).draw()


def load_clicks(data: str, seed: int, hash_buckets: int) -> Clicks:
    """The click log written as `data` (see the module's docstring), cached per process.

    seed: of the generator. hash_buckets: categories of every field of a file. Raises BadInput naming the fix.
    """
    if data == "generated":
        return generated(seed)
    if data.startswith("path:"):
        from workloads.data import click_files

        return click_files.load(data.removeprefix("path:").strip(), hash_buckets)
    raise BadInput(
        f"unknown workload.data '{data}'. Valid: generated, or path:FILE_FOLDER_OR_GLOB of Criteo TSV or Parquet"
    )
