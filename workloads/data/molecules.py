"""Graphs of atoms and bonds with several binary labels each. `load_molecules` is the entry point; they are written as

generated        grown by valence rules, labelled by the motifs that they hold (MoleculeModel)
path:FOLDER      as the Open Graph Benchmark ships its molecules (molecule_files.py)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from workloads.base import BadInput

SPLITS = ("train", "validation", "test")
EXAMPLES = {"train": 2**15, "validation": 2**10, "test": 10_240}
ATOMS = ("C", "N", "O", "S", "F", "Cl")
VALENCES = np.array([4, 3, 2, 2, 1, 1], np.int8)
_ATOM_SHARES = (0.57, 0.15, 0.16, 0.04, 0.04, 0.04)
_LEAST_ATOMS, MOST_ATOMS = 8, 16
_RINGS = (0.7, 0.4)  # chance of a first and of a second ring
_RING_DISTANCES = (4, 5)  # bonds between the atoms that a ring's last bond joins: rings of 5 and 6 atoms
MOST_BONDS = MOST_ATOMS - 1 + len(_RINGS)
_MULTIPLE_BOND = {2: 0.25, 3: 0.06}  # chance of a double or triple bond, where both atoms allow it
MOTIFS = (
    "carbonyl",
    "amide",
    "carboxyl",
    "nitrile",
    "ether",
    "amino alcohol",
    "quaternary carbon",
    "five-ring",
    "six-ring",
    "heterocycle",
    "halogen on a ring",
    "two rings",
)
NOISE = 0.05  # share of the motifs that are reported absent; as many are reported present that are not
MISSING = 0.2  # share of the labels that nobody measured


@dataclass(frozen=True)
class Split:
    """G graphs, padded with zeros to N nodes and E undirected edges.

    nodes: (G, N, node features) and edges: (G, E, edge features) small unsigned integers. ends: (G, E, 2) node numbers.
    node_count, edge_count: (G,) int32. labels: (G, L) float32, 0 or 1, 0 where missing. present: (G, L) float32, 0 where
    missing. probabilities: (G, L) float32, true P(label = 1), where it is known.
    """

    nodes: np.ndarray
    edges: np.ndarray
    ends: np.ndarray
    node_count: np.ndarray
    edge_count: np.ndarray
    labels: np.ndarray
    present: np.ndarray
    probabilities: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Molecules:
    """node_sizes, edge_sizes: values that each node and edge feature takes. label_names: of the L labels."""

    splits: Mapping[str, Split]
    node_sizes: tuple[int, ...]
    edge_sizes: tuple[int, ...]
    label_names: tuple[str, ...]
    info: Mapping[str, Any]


@dataclass(frozen=True)
class Graphs:
    """atoms: (G, N) int8 index into ATOMS, -1 where there is none. orders: (G, N, N) int8, bond order or 0, symmetric."""

    atoms: np.ndarray
    orders: np.ndarray


@dataclass(frozen=True)
class MoleculeModel:
    """Own construction. Atoms are attached one by one to a random atom with a free valence, more often to the last one, by a
    single, double or triple bond, until there are 8 to 16 (by chance) or no free valence is left; then up to two bonds close
    rings of 5 or 6 atoms. A label says that a motif occurs (`motifs`), but a share NOISE of those present is reported absent,
    and as many of those absent are reported present in expectation; a share MISSING of all labels is not reported. So
    P(label | graph) is one of two known numbers per motif.
    """

    seed: int = 0

    def draw(self) -> Molecules:
        """All splits, independent graphs (the same for the same seed)."""
        if self.seed < 0:
            raise BadInput(f"workload.generator_seed={self.seed} must be at least 0")
        graphs = grow(np.random.default_rng([self.seed, 0]), sum(EXAMPLES.values()))
        held = motifs(graphs)
        rate = held[: EXAMPLES["train"]].mean(axis=0)
        probability = np.where(held, 1.0 - NOISE, NOISE * rate / (1.0 - rate)).astype(np.float32)
        rng = np.random.default_rng([self.seed, 1])
        present = (rng.random(held.shape) >= MISSING).astype(np.float32)
        labels = (rng.random(held.shape) < probability) * present
        ends, edges, edge_count = _bonds(graphs.orders)
        node_count = (graphs.atoms >= 0).sum(axis=1).astype(np.int32)
        nodes = np.maximum(graphs.atoms, 0).astype(np.uint8)[:, :, None]
        columns = (nodes, edges, ends, node_count, edge_count, labels.astype(np.float32), present, probability)
        bounds = np.cumsum([0, *EXAMPLES.values()])
        splits = {
            split: Split(*(_frozen(column[start:end]) for column in columns))
            for split, start, end in zip(EXAMPLES, bounds, bounds[1:], strict=False)
        }
        info = {
            "source": "generated",
            "seed": self.seed,
            "examples": EXAMPLES,
            "mean_atoms": float(node_count.mean()),
            "motif_rates": dict(zip(MOTIFS, rate.tolist(), strict=True)),
            "label_noise": NOISE,
            "missing_labels": MISSING,
        }
        return Molecules(splits, (len(ATOMS),), (3,), MOTIFS, info)


def grow(rng: np.random.Generator, count: int) -> Graphs:
    """`count` connected graphs of at most MOST_ATOMS atoms, no atom above its valence, all side by side."""
    rows = np.arange(count)
    size = rng.integers(_LEAST_ATOMS, MOST_ATOMS + 1, count)
    atoms = np.full((count, MOST_ATOMS), -1, np.int8)
    orders = np.zeros((count, MOST_ATOMS, MOST_ATOMS), np.int8)
    distance = np.full(orders.shape, 2 * MOST_ATOMS, np.int8)
    free = np.zeros((count, MOST_ATOMS), np.int8)
    kinds = rng.choice(len(ATOMS), (count, MOST_ATOMS), p=_ATOM_SHARES).astype(np.int8)
    atoms[:, 0], free[:, 0], distance[:, 0, 0] = 0, VALENCES[0], 0
    for new in range(1, MOST_ATOMS):
        kind = np.where(free.sum(axis=1) == 1, 0, kinds[:, new])  # carbon where another atom could end the growth
        grows = rows[(new < size) & (free.sum(axis=1) > 0)]
        weight = free[grows, :new] * np.where(np.arange(new) == new - 1, 3.0, 1.0)
        parent = _choose(rng, weight)
        order = _order(rng, np.minimum(free[grows, parent], VALENCES[kind[grows]]))
        atoms[grows, new] = kind[grows]
        orders[grows, parent, new] = orders[grows, new, parent] = order
        free[grows, parent] -= order
        free[grows, new] = VALENCES[kind[grows]] - order
        distance[grows, new] = distance[grows, :, new] = distance[grows, parent] + 1
        distance[grows, new, new] = 0
    for chance in _RINGS:
        _close_ring(rng, chance, orders, free, distance)
    return Graphs(atoms, orders)


def _close_ring(
    rng: np.random.Generator, chance: float, orders: np.ndarray, free: np.ndarray, distance: np.ndarray
) -> None:
    """With this chance, where two atoms with free valences are far enough apart, join them (arrays change in place)."""
    allowed = np.isin(distance, _RING_DISTANCES) & (free[:, :, None] > 0) & (free[:, None, :] > 0)
    closes = np.flatnonzero(allowed.any(axis=(1, 2)) & (rng.random(len(orders)) < chance))
    pair = _choose(rng, allowed[closes].reshape(len(closes), -1))
    a, b = np.divmod(pair, MOST_ATOMS)
    order = _order(rng, np.minimum(free[closes, a], free[closes, b]))
    orders[closes, a, b] = orders[closes, b, a] = order
    free[closes, a] -= order
    free[closes, b] -= order
    to_a, to_b = distance[closes, :, a], distance[closes, :, b]
    around = np.minimum(to_a[:, :, None] + to_b[:, None, :], to_b[:, :, None] + to_a[:, None, :]) + 1
    distance[closes] = np.minimum(distance[closes], around)


def _choose(rng: np.random.Generator, weight: np.ndarray) -> np.ndarray:
    """(rows, choices) weights -> (rows,) choices drawn in proportion."""
    total = np.cumsum(weight, axis=1, dtype=np.float32)
    return np.argmax(total > rng.random((len(weight), 1), dtype=np.float32) * total[:, -1:], axis=1)


def _order(rng: np.random.Generator, most: np.ndarray) -> np.ndarray:
    drawn = rng.random(len(most))
    triple, double = _MULTIPLE_BOND[3], _MULTIPLE_BOND[2]
    wanted = np.where(drawn < triple, 3, np.where(drawn < triple + double, 2, 1))
    return np.minimum(wanted, most).astype(np.int8)


def motifs(graphs: Graphs) -> np.ndarray:
    """(G, L) bool: which of MOTIFS each graph holds.

    carbonyl C=O; amide O=C-N; carboxyl O=C-O; nitrile C#N; ether C-O-C; amino alcohol N-C-C-O; quaternary carbon: a carbon
    with four neighbours; five-ring, six-ring: a cycle of that length; heterocycle: one that holds N, O or S; halogen on a
    ring: F or Cl next to an atom of one; two rings: a second independent cycle.
    """
    is_atom = {atom: graphs.atoms == i for i, atom in enumerate(ATOMS)}
    bond = {order: graphs.orders == order for order in (1, 2, 3)}

    def next_to(order: int, atoms: np.ndarray) -> np.ndarray:
        """(G, N): atoms that have a bond of this order to one of `atoms`."""
        return (bond[order] & atoms[:, None, :]).any(axis=2)

    carbon, oxygen, nitrogen = is_atom["C"], is_atom["O"], is_atom["N"]
    carbonyl = carbon & next_to(2, oxygen)
    amine, alcohol = carbon & next_to(1, nitrogen), carbon & next_to(1, oxygen)
    neighbours = (graphs.orders > 0).sum(axis=2)
    five, six = (in_cycle(graphs.orders > 0, length) for length in (5, 6))
    halogen = is_atom["F"] | is_atom["Cl"]
    cycles = neighbours.sum(axis=1) // 2 - (graphs.atoms >= 0).sum(axis=1) + 1
    found = (
        carbonyl,
        carbonyl & amine,
        carbonyl & alcohol,
        carbon & next_to(3, nitrogen),
        oxygen & ((bond[1] & carbon[:, None, :]).sum(axis=2) == 2),
        amine & next_to(1, alcohol),
        carbon & (neighbours == 4),
        five,
        six,
        (five | six) & (nitrogen | oxygen | is_atom["S"]),
        (five | six) & next_to(1, halogen),
        (cycles >= 2)[:, None],
    )
    return np.stack([atoms.any(axis=1) for atoms in found], axis=1)


def in_cycle(joined: np.ndarray, length: int) -> np.ndarray:
    """(G, N): nodes on a cycle of `length` 5 or 6, in graphs (G, N, N) that have no shorter cycle than 5.

    Such nodes are those with a closed walk of that length which never turns back: in these graphs no other walk closes.
    The walks are counted by A_k+1 = A_k A - A_k-1 (D - 1), A_2 = A^2 - D (Alon et al. 2007, sec. 2).
    """
    adjacency = joined.astype(np.float32)
    degree = np.einsum("gij->gi", adjacency)
    before, walks = adjacency, adjacency @ adjacency
    index = np.arange(walks.shape[1])
    walks[:, index, index] -= degree
    for _ in range(length - 2):
        before, walks = walks, walks @ adjacency - before * (degree - 1.0)[:, None, :]
    return np.einsum("gii->gi", walks) > 0.5


def _bonds(orders: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(G, E, 2) uint8 ends, (G, E, 1) uint8 bond orders from 0, (G,) int32 counts."""
    graph, first, second = np.nonzero(np.triu(orders))
    count = np.bincount(graph, minlength=len(orders)).astype(np.int32)
    slot = np.arange(len(graph)) - np.repeat(np.cumsum(count) - count, count)
    ends = np.zeros((len(orders), MOST_BONDS, 2), np.uint8)
    edges = np.zeros((len(orders), MOST_BONDS, 1), np.uint8)
    ends[graph, slot] = np.stack([first, second], axis=1)
    edges[graph, slot, 0] = orders[graph, first, second] - 1
    return ends, edges, count


def _frozen(column: np.ndarray) -> np.ndarray:
    column.flags.writeable = False
    return column


@functools.lru_cache(maxsize=2)
def generated(seed: int) -> Molecules:
    """The graphs of MoleculeModel(seed), drawn once per process."""
    return MoleculeModel(seed).draw()


def load_molecules(data: str, seed: int, max_nodes: int) -> Molecules:
    """The graphs written as `data` (see the module's docstring), cached per process.

    seed: of the generator. max_nodes: larger graphs of files are left out. Raises BadInput naming the fix.
    """
    if data == "generated":
        return generated(seed)
    if data.startswith("path:"):
        from workloads.data import molecule_files

        return molecule_files.load(data.removeprefix("path:").strip(), max_nodes)
    raise BadInput(f"unknown workload.data '{data}'. Valid: generated, or path:FOLDER of an OGB molecule data set")
