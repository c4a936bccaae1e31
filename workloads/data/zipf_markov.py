"""A token source whose entropy rate is known exactly: a Markov chain with Zipf-distributed transitions.

After every state the V tokens follow the same Zipf law p(rank r) = r**-exponent / Z, and only which token has
which rank differs: a random permutation per state. The entropy rate, sum_s pi(s) H(row s) (Cover & Thomas
2006, theorem 4.2.4), is therefore the law's entropy whatever the stationary distribution pi is, and no model
can reach a lower loss. Own construction.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from workloads.base import BadInput
from workloads.data.corpus import Corpus, build

TOKENS = (1_000_000, 65_536, 65_536)  # train, validation, test
_MOST_TRANSITIONS = 2**22


@dataclass(frozen=True)
class ZipfMarkov:
    """vocab_size: V. exponent: of the Zipf law (0 is uniform). order: tokens that the next one depends on.

    The S = V**order states are numbered by their tokens as digits in base V, oldest first.
    seed: of the permutations and of the samples.
    """

    vocab_size: int = 64
    exponent: float = 1.0
    order: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.vocab_size < 2 or self.order < 1 or self.seed < 0 or not 0.0 <= self.exponent < float("inf"):
            raise BadInput(f"{self}: use vocab_size >= 2, order >= 1, seed >= 0 and a finite exponent >= 0")
        if self.vocab_size ** (self.order + 1) > _MOST_TRANSITIONS:
            raise BadInput(
                f"zipf_markov needs vocab_size**(order + 1) <= {_MOST_TRANSITIONS} transitions: "
                f"lower vocab_size or order"
            )

    @property
    def states(self) -> int:
        return self.vocab_size**self.order

    @functools.cached_property
    def law(self) -> np.ndarray:
        """(V,) float64: probability of rank 1, 2, ..., V after any state."""
        weights = np.arange(1, self.vocab_size + 1, dtype=np.float64) ** -self.exponent
        return weights / weights.sum()

    @functools.cached_property
    def ranked(self) -> np.ndarray:
        """(S, V) int: the token of rank r + 1 after state s."""
        random = np.random.default_rng([self.seed, 0]).random((self.states, self.vocab_size))
        return np.argsort(random, axis=1)

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """(S, V) float64: the transition probabilities P(token | state)."""
        table = np.empty((self.states, self.vocab_size))
        np.put_along_axis(table, self.ranked, np.broadcast_to(self.law, table.shape), axis=1)
        return table

    def advance(self, distribution: np.ndarray) -> np.ndarray:
        """(S,) -> (S,): the distribution over states one token later."""
        joint = (distribution[:, None] * self.probabilities).reshape(self.vocab_size, -1, self.vocab_size)
        return joint.sum(axis=0).reshape(-1)  # the oldest token of the state is forgotten

    @functools.cached_property
    def stationary(self) -> np.ndarray:
        """(S,) float64: the stationary distribution over states, to rounding error (power iteration).

        Raises BadInput if the chain mixes too slowly for that, which only extreme exponents do.
        """
        distribution = np.full(self.states, 1.0 / self.states)
        for _ in range(20_000):
            before, distribution = distribution, self.advance(distribution)
            if np.abs(distribution - before).sum() < 1e-14:
                return distribution / distribution.sum()
        raise BadInput(f"{self}: the chain is almost deterministic and mixes too slowly: lower the exponent")

    @property
    def entropy_rate(self) -> float:
        """In nats per token: the lowest loss that any model can reach on a long stream."""
        return float(-(self.law * np.log(self.law)).sum())

    @property
    def unigram_entropy(self) -> float:
        """In nats per token: the loss of a model that knows only how frequent each token is."""
        frequency = self.stationary.reshape(-1, self.vocab_size).sum(axis=0)
        return float(-(frequency * np.log(frequency)).sum())

    def sample(self, tokens: int, stream: int) -> np.ndarray:
        """(tokens,) uint16: one unbroken stationary chain. Streams of different numbers are independent."""
        rng = np.random.default_rng([self.seed, 1 + stream])
        first = _inverse_cdf(self.stationary, rng.random(1))[0]
        ranks = _inverse_cdf(self.law, rng.random(tokens))
        after = ((np.arange(self.states)[:, None] * self.vocab_size + self.ranked) % self.states).tolist()
        chain = itertools.accumulate(ranks.tolist(), lambda state, rank: after[state][rank], initial=int(first))
        states = np.fromiter(itertools.islice(chain, 1, None), dtype=np.int64, count=tokens)
        return (states % self.vocab_size).astype(np.uint16)

    def log_probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """(n,) -> (n - order,) float64: log P(token | the `order` tokens before it), from token `order` on.

        Its mean is minus the true model's loss on the very same tokens, to be paired with a model's.
        """
        windows = np.lib.stride_tricks.sliding_window_view(tokens.astype(np.int64), self.order + 1)
        states = windows[:, :-1] @ (self.vocab_size ** np.arange(self.order - 1, -1, -1))
        return np.log(self.probabilities)[states, windows[:, -1]]


def _inverse_cdf(law: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    return np.minimum(np.searchsorted(np.cumsum(law), uniform, side="right"), len(law) - 1)


def parse(settings: str) -> ZipfMarkov:
    """The source written as "exponent=1.2,seed=3" (empty: all defaults). Raises BadInput on bad settings."""
    kinds: dict[str, Callable[[str], int | float]] = {
        field.name: float if field.name == "exponent" else int for field in fields(ZipfMarkov)
    }
    values: dict[str, int | float] = {}
    for setting in filter(None, settings.split(",")):
        name, _, value = setting.partition("=")
        if name.strip() not in kinds:
            raise BadInput(
                f"zipf_markov has no setting '{setting}'. Write zipf_markov:NAME=VALUE with {', '.join(kinds)}"
            )
        try:
            values[name.strip()] = kinds[name.strip()](value)
        except ValueError:
            raise BadInput(f"zipf_markov:{setting} needs a number after the equals sign") from None
    return ZipfMarkov(**values)  # type: ignore[arg-type]


@functools.lru_cache(maxsize=4)
def load(settings: str) -> Corpus:
    """The corpus of `parse(settings)`. `info` holds the entropy rate and what defines the source."""
    source = parse(settings)
    train, validation, test = (source.sample(tokens, stream) for stream, tokens in enumerate(TOKENS))
    info = {
        "corpus": "zipf_markov",
        **{field.name: getattr(source, field.name) for field in fields(source)},
        "entropy_rate": source.entropy_rate,
        "unigram_entropy": source.unigram_entropy,
        "split": "independent streams of one source",
    }
    return build((train, validation, test), source.vocab_size, info)
