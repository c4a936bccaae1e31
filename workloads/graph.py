"""Properties of molecules with a message-passing graph network (Battaglia et al. 2018; AlgoPerf's ogbg)."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from workloads.base import Array, BadInput, Batch, Data, Metric, Params, Tap, Workload, ignore
from workloads.data.molecules import SPLITS, Molecules, Split, load_molecules
from workloads.layers import matmul
from workloads.metrics.finite import where_finite
from workloads.metrics.parts import in_parts
from workloads.metrics.ranking import mean_average_precision, with_standard_error

_EVALUATED_TOGETHER = 256  # graphs
_NORM_EPS = 1e-6
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": jax.nn.relu, "gelu": jax.nn.gelu, "silu": jax.nn.silu}
COLUMNS = ("nodes", "edges", "ends", "node_count", "edge_count", "labels", "present")


@dataclass(frozen=True)
class Graph(Workload):
    """Binary labels of whole graphs, some of them missing, from the features of nodes and edges.

    width: W, of all vectors. depth: message-passing steps, each a graph network block (Battaglia et al. 2018, algorithm 1)
    whose three updates, of edges, nodes and the graph, are MLPs with layer normalisation before the activation. An edge sees
    itself, its two nodes and the graph; a node itself, the sums of the edges that leave and that enter it, and the graph;
    the graph sees itself and the sums of its nodes and edges. Every bond is two edges, one a direction. The graph's vector is
    zero before the first block, and gives the logits after the last.
    mlp_layers: layers of every MLP. embedding_divisor: nodes and edges begin as vectors of W / embedding_divisor, sums of a
    learned vector per feature value (AlgoPerf multiplies the values themselves by a matrix). activation: relu, gelu or silu.
    There is no dropout.
    data: "generated", or path: the folder of an OGB molecule data set. generator_seed: of the generated graphs.
    max_nodes: larger graphs of files are left out.
    attention_scale and residual_scale have no meaning here. What an MLP reads is not joined: every part has its own matrix.
    Shapes below: B graphs, N nodes and E bonds in each with padding, L labels.
    """

    name: ClassVar[str] = "graph"
    metric: ClassVar[Metric] = Metric("mean_average_precision", "maximize", "fraction")
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gelu": {"activation": "gelu"},
        "silu": {"activation": "silu"},
        "size": {"mlp_layers": 2, "embedding_divisor": 2, "depth": 3},
    }
    default_steps: ClassVar[int] = 2000

    width: int = 32
    depth: int = 5
    batch_size: int = 32
    data: str = "generated"
    generator_seed: int = 0
    max_nodes: int = 64
    mlp_layers: int = 1
    embedding_divisor: int = 1
    activation: str = "relu"

    def validate(self) -> None:
        super().validate()
        for field in ("max_nodes", "mlp_layers", "embedding_divisor"):
            if getattr(self, field) < 1:
                raise BadInput(f"workload.{field}={getattr(self, field)} must be at least 1")
        if self.width % self.embedding_divisor:
            raise BadInput(
                f"workload.width={self.width} is not divisible by workload.embedding_divisor={self.embedding_divisor}"
            )
        if self.activation not in ACTIVATIONS:
            close = difflib.get_close_matches(self.activation, ACTIVATIONS, n=1, cutoff=0.5)
            hint = f"Did you mean '{close[0]}'? " if close else ""
            raise BadInput(
                f"unknown workload.activation '{self.activation}'. {hint}Valid names: {', '.join(ACTIVATIONS)}."
            )

    def load(self) -> Data:
        """Every split's `SPLIT_COLUMN` for COLUMNS, with the shapes of `Split` in workloads.data.molecules."""
        molecules = self._molecules()
        arrays = {f"{split}_{name}": getattr(molecules.splits[split], name) for split in SPLITS for name in COLUMNS}
        return Data(arrays, molecules.info, examples=len(molecules.splits["train"].labels))

    def data_key(self) -> Hashable:
        return type(self), self.data, self.generator_seed, self.max_nodes

    def trivial_metric(self, split: str = "validation") -> float:
        """Of one score for all graphs: the mean share of positives."""
        part = self._molecules().splits[split]
        return _mean_average_precision(part, np.zeros_like(part.labels))

    def oracle_metric(self, split: str = "validation") -> float | None:
        """Of the true probabilities, on the same labels. None for files."""
        part = self._molecules().splits[split]
        return None if part.probabilities is None else _mean_average_precision(part, part.probabilities)

    def init(self, key: Array) -> Params:
        """Vectors of feature values standard normal, matrices normal of variance 1 / (all that the MLP reads)."""
        molecules, embedding = self._molecules(), self.width // self.embedding_divisor
        keys = iter(jax.random.split(key, 3 + self.depth))
        params: dict[str, Params] = {
            "nodes": {"table": jax.random.normal(next(keys), (sum(molecules.node_sizes), embedding))},
            "edges": {"table": jax.random.normal(next(keys), (sum(molecules.edge_sizes), embedding))},
            "output": {
                "kernel": jax.random.normal(next(keys), (self.width, self._labels)) * self.width**-0.5,
                "bias": jnp.zeros(self._labels),
            },
        }
        for step in range(self.depth):
            params[f"step_{step}"] = self._init_block(next(keys), self._reads(step))
        return params

    def _init_block(self, key: Array, reads: Mapping[str, Mapping[str, int]]) -> Params:
        """The matrices are drawn at once, as one below the other: every draw costs 0.15 s to compile."""
        inner = (self.mlp_layers - 1) * self.width
        drawn = jax.random.normal(key, (sum(sum(sizes.values()) + inner for sizes in reads.values()), self.width))
        start, block = 0, {}

        def matrix(fan_in: int, reads: int) -> Array:
            nonlocal start
            start += fan_in
            return drawn[start - fan_in : start] * reads**-0.5

        for update, sizes in reads.items():
            block[update] = {name: matrix(size, sum(sizes.values())) for name, size in sizes.items()} | self._norm()
            for layer in range(1, self.mlp_layers):
                block[update][f"layer_{layer}"] = {"kernel": matrix(self.width, self.width), **self._norm()}
        return block

    def batch(self, data: Mapping[str, Array], key: Array, step: Array) -> Batch:
        """COLUMNS of B graphs, drawn with replacement."""
        rows = jax.random.randint(
            jax.random.fold_in(key, step), (self.batch_size,), 0, data["train_labels"].shape[0], jnp.int32
        )
        return {name: data[f"train_{name}"][rows] for name in COLUMNS}

    def loss(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        """Cross-entropy in nats, mean over the labels that are not missing."""
        return _cross_entropy(self.logits(params, batch), batch["labels"], batch["present"]), {}

    def evaluate(self, params: Params, data: Mapping[str, Array], split: str) -> dict[str, Array]:
        """`loss`: cross-entropy in nats per label. `mean_average_precision`: over the labels with positives and negatives, and
        its standard error over graphs.
        """
        columns = tuple(data[f"{split}_{name}"] for name in COLUMNS)
        logits = in_parts(
            lambda *part: self.logits(params, dict(zip(COLUMNS, part, strict=True))), columns, _EVALUATED_TOGETHER
        )
        labels, present = data[f"{split}_labels"], data[f"{split}_present"]
        precision, stderr = with_standard_error(
            lambda weights: mean_average_precision(logits, labels, present * weights[:, None]), labels.shape[0]
        )
        scores = {"mean_average_precision": precision, "mean_average_precision_stderr": stderr}
        return where_finite({"loss": _cross_entropy(logits, labels, present), **scores})

    def activations(self, params: Params, batch: Batch) -> dict[str, Array]:
        """What the updates give to edges (2 B E, W), nodes (B N, W), padding included, and graphs (B, W); logits (B, L)."""
        found: dict[str, Array] = {}
        logits = self.logits(params, batch, found.__setitem__)
        return found | {"logits": logits}

    def logits(self, params: Params, batch: Mapping[str, Array], tap: Tap = ignore) -> Array:
        """COLUMNS of B graphs (labels are not read) -> (B, L) logits in float32."""
        molecules = self._molecules()
        graphs, most_nodes = batch["nodes"].shape[:2]
        first = (jnp.arange(graphs, dtype=jnp.int32) * most_nodes)[:, None, None]
        ends = batch["ends"].astype(jnp.int32) + first
        senders = jnp.concatenate([ends[:, :, 0], ends[:, :, 1]], axis=1).reshape(-1)
        receivers = jnp.concatenate([ends[:, :, 1], ends[:, :, 0]], axis=1).reshape(-1)
        nodes = _embed(params["nodes"]["table"], batch["nodes"], molecules.node_sizes)
        edges = _embed(params["edges"]["table"], batch["edges"], molecules.edge_sizes)
        edges = jnp.concatenate([edges, edges], axis=1)
        real_node = _mask(batch["node_count"], most_nodes, nodes.dtype)
        real_edge = jnp.tile(_mask(batch["edge_count"], ends.shape[1], nodes.dtype), (1, 2, 1))
        nodes, edges, whole = nodes.reshape(-1, nodes.shape[2]), edges.reshape(-1, edges.shape[2]), None
        spread = functools.partial(_spread, graphs=graphs)
        gathered = functools.partial(_gathered, graphs=graphs)
        summed = functools.partial(jax.ops.segment_sum, num_segments=graphs * most_nodes)
        for step in range(self.depth):
            block = params[f"step_{step}"]
            parts = [
                matmul(edges, block["edge"]["edge"]),
                matmul(nodes, block["edge"]["sender"])[senders],
                matmul(nodes, block["edge"]["receiver"])[receivers],
            ]
            edges = self._mlp(block["edge"], parts, whole, spread) * real_edge.reshape(-1, 1)
            parts = [
                matmul(nodes, block["node"]["node"]),
                matmul(summed(edges, senders), block["node"]["leaving"]),
                matmul(summed(edges, receivers), block["node"]["entering"]),
            ]
            nodes = self._mlp(block["node"], parts, whole, spread) * real_node.reshape(-1, 1)
            parts = [
                matmul(gathered(nodes), block["graph"]["nodes"]),
                matmul(gathered(edges), block["graph"]["edges"]),
            ]
            whole = self._mlp(block["graph"], parts, whole, spread)
            for name, vectors in (("edge", edges), ("node", nodes), ("graph", whole)):
                tap(f"{name}_{step}", vectors)
        output = matmul(whole, params["output"]["kernel"]) + params["output"]["bias"][None]
        return self.output_scale * output.astype(jnp.float32)

    def _mlp(self, update: Params, parts: list[Array], whole: Array | None, spread: Callable[..., Array]) -> Array:
        """The MLP of an update, from the products (rows, W) of its parts and the graphs' vectors (B, W), None before the first
        block. -> (rows, W)
        """
        total = sum(parts[1:], parts[0])
        if whole is not None:
            total = spread(total, matmul(whole, update["graph"]))
        activate = ACTIVATIONS[self.activation]
        hidden = activate(_layer_norm(update, total))
        for layer in range(1, self.mlp_layers):
            inner = update[f"layer_{layer}"]
            hidden = activate(_layer_norm(inner, matmul(hidden, inner["kernel"])))
        return hidden

    def matmul_flops(self) -> float:
        """2 per weight and row forward, where the rows are edges, nodes or graphs, padding included; twice that backward."""
        part = self._molecules().splits["train"]
        nodes, bonds = part.nodes.shape[1], part.edges.shape[1]
        per_graph = self.width * self._labels
        rows = {"edge": 2 * bonds, "node": nodes, "graph": 1}
        for step in range(self.depth):
            for update, reads in self._reads(step).items():
                for name, size in reads.items():
                    on = nodes if name in ("sender", "receiver") else 1 if name == "graph" else rows[update]
                    per_graph += on * size * self.width
                per_graph += (self.mlp_layers - 1) * rows[update] * self.width**2
        return 3.0 * 2.0 * self.batch_size * per_graph

    def _molecules(self) -> Molecules:
        return load_molecules(self.data, self.generator_seed, self.max_nodes)

    @property
    def _labels(self) -> int:
        return len(self._molecules().label_names)

    def _reads(self, step: int) -> dict[str, dict[str, int]]:
        """What the MLPs of a step read: update -> part -> size."""
        size = self.width if step else self.width // self.embedding_divisor
        graph = {"graph": self.width} if step else {}
        return {
            "edge": {"edge": size, "sender": size, "receiver": size, **graph},
            "node": {"node": size, "leaving": self.width, "entering": self.width, **graph},
            "graph": {"nodes": self.width, "edges": self.width, **graph},
        }

    def _norm(self) -> dict[str, Array]:
        return {"gain": jnp.ones(self.width), "shift": jnp.zeros(self.width)}


def _embed(table: Array, features: Array, sizes: tuple[int, ...]) -> Array:
    """(B, rows, features) values -> (B, rows, K): the sum of their vectors."""
    offsets = np.cumsum((0, *sizes[:-1])).astype(np.int32)
    return jnp.sum(table[features.astype(jnp.int32) + offsets[None, None]], axis=2)


def _mask(count: Array, most: int, dtype: Any) -> Array:
    """(B,) -> (B, most, 1): 1 for rows that are no padding."""
    return (jnp.arange(most)[None] < count[:, None]).astype(dtype)[:, :, None]


def _spread(rows: Array, of_graphs: Array, graphs: int) -> Array:
    """(B rows, W) plus (B, W), every row its graph's."""
    return (rows.reshape(graphs, -1, rows.shape[1]) + of_graphs[:, None]).reshape(rows.shape)


def _gathered(rows: Array, graphs: int) -> Array:
    """(B rows, W) -> (B, W): the sum over every graph's rows."""
    return jnp.sum(rows.reshape(graphs, -1, rows.shape[1]), axis=1)


def _layer_norm(layer: Params, x: Array) -> Array:
    """Layer normalisation over the last axis (Ba et al. 2016), with the layer's gain and shift."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + _NORM_EPS)
    return normed * layer["gain"][None] + layer["shift"][None]


def _cross_entropy(logits: Array, labels: Array, present: Array) -> Array:
    """Mean over what is present, float32. All (B, L)."""
    losses = optax.sigmoid_binary_cross_entropy(logits, labels.astype(jnp.float32))
    present = present.astype(jnp.float32)
    return jnp.sum(losses * present) / jnp.maximum(jnp.sum(present), 1.0)


def _mean_average_precision(part: Split, scores: np.ndarray) -> float:
    return float(jax.jit(mean_average_precision)(scores, part.labels, part.present))
