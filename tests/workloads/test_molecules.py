"""Molecules: generated ones obey valences and hold the motifs that their labels report; OGB's files are read or refused."""

import gzip
import itertools
import json

import numpy as np
import pytest

from workloads.base import BadInput
from workloads.data import molecule_files, molecules
from workloads.data.molecules import ATOMS, MOTIFS, SPLITS, VALENCES, generated, grow, load_molecules, motifs

GRAPHS = grow(np.random.default_rng(0), 300)


def neighbours(graph):
    return [np.flatnonzero(row).tolist() for row in GRAPHS.orders[graph]]


def test_atoms_keep_their_valences_and_graphs_hang_together():
    for atoms, orders in zip(GRAPHS.atoms, GRAPHS.orders, strict=True):
        count = int((atoms >= 0).sum())
        assert np.all(atoms[:count] >= 0)
        np.testing.assert_array_equal(orders, orders.T)
        assert not np.diag(orders).any()
        assert not orders[count:].any()
        assert np.all(orders.sum(axis=1)[:count] <= VALENCES[atoms[:count]])
        assert (orders > 0).sum(axis=1).max() <= 4
        reached = np.linalg.matrix_power((orders[:count, :count] > 0) + np.eye(count), count)
        assert np.all(reached > 0)


def cycles(adjacent, length):
    """Sets of nodes on simple cycles of this length, by walking."""
    found = set()

    def walk(path):
        if len(path) == length:
            if path[0] in adjacent[path[-1]]:
                found.add(frozenset(path))
            return
        for node in adjacent[path[-1]]:
            if node > path[0] and node not in path:
                walk([*path, node])

    for start in range(len(adjacent)):
        walk([start])
    return found


def held(graph):
    """The motifs of one graph, by looking at one atom after the other."""
    atoms = [ATOMS[i] if i >= 0 else "" for i in GRAPHS.atoms[graph]]
    orders, adjacent = GRAPHS.orders[graph], neighbours(graph)

    def bonded(node, atom, order):
        return [other for other in adjacent[node] if atoms[other] == atom and orders[node, other] == order]

    carbons = [i for i, atom in enumerate(atoms) if atom == "C"]
    rings = cycles(adjacent, 5), cycles(adjacent, 6)
    in_ring = set().union(*rings[0], *rings[1])
    chains = itertools.product(carbons, carbons)
    count = sum(atom != "" for atom in atoms)
    return {
        "carbonyl": any(bonded(c, "O", 2) for c in carbons),
        "amide": any(bonded(c, "O", 2) and bonded(c, "N", 1) for c in carbons),
        "carboxyl": any(bonded(c, "O", 2) and bonded(c, "O", 1) for c in carbons),
        "nitrile": any(bonded(c, "N", 3) for c in carbons),
        "ether": any(len(bonded(o, "C", 1)) == 2 for o, atom in enumerate(atoms) if atom == "O"),
        "amino alcohol": any(orders[a, b] == 1 and bonded(a, "N", 1) and bonded(b, "O", 1) for a, b in chains),
        "quaternary carbon": any(len(adjacent[c]) == 4 for c in carbons),
        "five-ring": bool(rings[0]),
        "six-ring": bool(rings[1]),
        "heterocycle": any(atoms[i] in ("N", "O", "S") for i in in_ring),
        "halogen on a ring": any(bonded(i, "F", 1) or bonded(i, "Cl", 1) for i in in_ring),
        "two rings": sum(map(len, adjacent)) // 2 - count + 1 >= 2,
    }


def test_motifs_are_those_that_a_search_finds():
    found = motifs(GRAPHS)
    assert found.any(axis=0).all()
    assert not found.all(axis=0).any()
    for graph in range(len(found)):
        assert not any(cycles(neighbours(graph), length) for length in (3, 4))
        assert dict(zip(MOTIFS, found[graph].tolist(), strict=True)) == held(graph)


def test_generated_graphs_are_those_that_were_grown():
    data = generated(0)
    graphs = grow(np.random.default_rng([0, 0]), sum(molecules.EXAMPLES.values()))
    part, shift = data.splits["validation"], molecules.EXAMPLES["train"]
    for i in range(50):
        orders = np.zeros_like(graphs.orders[0])
        for (a, b), (order,) in list(zip(part.ends[i], part.edges[i], strict=True))[: part.edge_count[i]]:
            orders[a, b] = orders[b, a] = order + 1
        np.testing.assert_array_equal(orders, graphs.orders[shift + i])
        atoms = graphs.atoms[shift + i]
        np.testing.assert_array_equal(part.nodes[i, : part.node_count[i], 0], atoms[atoms >= 0])
    held = motifs(graphs)[: molecules.EXAMPLES["train"]]
    rates = list(data.info["motif_rates"].values())
    np.testing.assert_allclose(held.mean(axis=0), rates)
    assert min(rates) < 0.08
    assert max(rates) > 0.5


def test_labels_have_the_stated_noise_and_gaps():
    train = generated(0).splits["train"]
    total = train.present.size
    assert abs(np.mean(train.present) - (1 - molecules.MISSING)) < 4 * (0.25 / total) ** 0.5
    assert not np.any(train.labels[train.present == 0])
    for label in range(len(MOTIFS)):
        values = np.unique(train.probabilities[:, label])
        assert len(values) == 2
        assert values[1] == pytest.approx(1 - molecules.NOISE)
        holds = train.probabilities[:, label] == values[1]
        swapped = values[0] * np.mean(~holds), molecules.NOISE * np.mean(holds)
        assert swapped[0] == pytest.approx(swapped[1], rel=1e-4)
        for group, probability in ((~holds, values[0]), (holds, values[1])):
            labels = train.labels[group & (train.present[:, label] > 0), label]
            assert abs(labels.mean() - probability) < 4.5 * (probability * (1 - probability) / len(labels)) ** 0.5


def test_a_seed_is_another_set():
    first, again, other = generated(0), molecules.MoleculeModel(0).draw(), generated(1)
    for split, part in first.splits.items():
        assert len(part.labels) == molecules.EXAMPLES[split]
        np.testing.assert_array_equal(part.ends, again.splits[split].ends)
        np.testing.assert_array_equal(part.labels, again.splits[split].labels)
        assert np.any(part.labels != other.splits[split].labels)
    json.dumps(first.info)
    with pytest.raises(BadInput, match="generator_seed=-1"):
        load_molecules("generated", -1, 10)
    with pytest.raises(BadInput, match="path:FOLDER"):
        load_molecules("molpcba", 0, 10)


def table(rows):
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


def molpcba():
    """file -> text of 12 rings of 3, 4, 5 ... atoms with 2 labels, of which every third is missing."""
    sizes = [3 + i for i in range(12)]
    bonds = [(a, (a + 1) % n) for n in sizes for a in range(n)]
    labels = [[i % 2, "" if i % 3 == 0 else (i // 2) % 2] for i in range(12)]
    split = {"train": range(6), "valid": range(6, 9), "test": range(9, 12)}
    files = {
        "raw/edge": bonds,
        "raw/node-feat": [[5 + i % 2, i % 3, 0] for i in range(len(bonds))],
        "raw/edge-feat": [[i % 4, 1] for i in range(len(bonds))],
        "raw/num-node-list": [[n] for n in sizes],
        "raw/num-edge-list": [[n] for n in sizes],
        "raw/graph-label": labels,
        **{f"split/scaffold/{name}": [[i] for i in rows] for name, rows in split.items()},
    }
    return {name: table(rows) for name, rows in files.items()}


def write(folder, files):
    for name, text in files.items():
        path = folder / f"{name}.csv.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt") as stream:
            stream.write(text)


def test_ogb_files(tmp_path):
    write(tmp_path, molpcba())
    data = load_molecules(f"path:{tmp_path}", 0, 13)
    assert {split: part.node_count.tolist() for split, part in data.splits.items()} == {
        "train": [3, 4, 5, 6, 7, 8],
        "validation": [9, 10, 11],
        "test": [12, 13],
    }
    assert data.info["graphs_left_out"] == {"train": 0, "validation": 0, "test": 1}
    second = data.splits["train"]
    assert (second.nodes.shape, second.edges.shape, second.ends.shape) == ((6, 13, 3), (6, 13, 2), (6, 13, 2))
    np.testing.assert_array_equal(second.ends[1, :5], [[0, 1], [1, 2], [2, 3], [3, 0], [0, 0]])
    np.testing.assert_array_equal(second.nodes[1, :5], [[6, 0, 0], [5, 1, 0], [6, 2, 0], [5, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(second.edges[1, :4, 0], [3, 0, 1, 2])
    np.testing.assert_array_equal(second.labels, [[0, 0], [1, 0], [0, 1], [1, 0], [0, 0], [1, 0]])
    np.testing.assert_array_equal(second.present, [[1, 0], [1, 1], [1, 1], [1, 0], [1, 1], [1, 1]])
    assert (data.node_sizes, data.edge_sizes, len(data.label_names)) == ((7, 3, 1), (4, 2), 2)
    assert second.nodes.dtype == np.uint8
    json.dumps(data.info)
    (tmp_path / "raw").rename(tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere").iterdir():
        path.rename(tmp_path / path.name)
    (tmp_path / "split" / "scaffold").rename(tmp_path / "split" / "random")
    moved = load_molecules(f"path:{tmp_path}", 0, 13)
    assert moved.info["sha256"] == data.info["sha256"]
    again = molpcba()
    write(tmp_path, {"graph-label": again["raw/graph-label"].replace("0,\n", "0,nan\n").replace("1,0", "0,1", 1)})
    assert load_molecules(f"path:{tmp_path}", 0, 13).info["sha256"] != data.info["sha256"]


def test_long_validation_splits_are_thinned(tmp_path, monkeypatch):
    monkeypatch.setattr(molecule_files, "MOST_VALIDATION", 2)
    write(tmp_path, molpcba() | {"raw/graph-label": table([[int(i in (1, 8, 10)), 0] for i in range(12)])})
    assert load_molecules(f"path:{tmp_path}", 0, 64).splits["validation"].node_count.tolist() == [9, 11]


MALFORMED = {  # file, its new text (None: no file), message
    "missing": ("raw/edge", None, r"no edge\.csv\.gz"),
    "no split": ("split/scaffold/valid", None, r"no valid\.csv\.gz"),
    "empty": ("raw/node-feat", "", "cannot be read"),
    "words": ("raw/edge-feat", "single,yes\n" * 100, "cannot be read as numbers"),
    "fractions": ("raw/node-feat", "0.5,1,1\n" * 102, "whole numbers from 0"),
    "rows": ("raw/node-feat", "1,1,1\n" * 5, r"has 5 rows, and the other files need 102"),
    "edge count": ("raw/num-edge-list", "3\n" * 12, "edge-feat.* 102 rows, and the other files need 36"),
    "ends": ("raw/edge", "0,99\n" * 102, "below its graph's number of nodes"),
    "one end": ("raw/edge", "0\n" * 102, "two node numbers"),
    "labels": ("raw/graph-label", "0,2\n" * 12, "other than 0, 1 and missing"),
    "one class": ("raw/graph-label", "0,1\n" * 12, "no label has both"),
    "split": ("split/scaffold/test", "99\n", "names graph 99, and there are 12"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_files_are_refused(tmp_path, case):
    name, text, message = MALFORMED[case]
    files = molpcba() | {name: text}
    write(tmp_path, {name: text for name, text in files.items() if text is not None})
    with pytest.raises(BadInput, match=message):
        load_molecules(f"path:{tmp_path}", 0, 64)


def test_missing_folders_and_too_large_graphs_are_refused(tmp_path):
    with pytest.raises(BadInput, match="needs raw/"):
        load_molecules(f"path:{tmp_path}/nowhere", 0, 64)
    write(tmp_path, molpcba())
    with pytest.raises(BadInput, match=r"max_nodes=2 nodes: raise it"):
        load_molecules(f"path:{tmp_path}", 0, 2)
    (tmp_path / "split" / "scaffold").rename(tmp_path / "split" / "a")
    (tmp_path / "split" / "b").mkdir()
    with pytest.raises(BadInput, match="2 folders and none named scaffold"):
        load_molecules(f"path:{tmp_path}", 0, 64)


def test_every_split_is_there():
    assert set(generated(0).splits) == set(SPLITS)
