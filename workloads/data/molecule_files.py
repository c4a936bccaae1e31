"""Molecules as the Open Graph Benchmark ships them (Hu et al. 2020; ogbg-molpcba and its siblings), from their csv.gz files."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from workloads.base import BadInput
from workloads.data.molecules import SPLITS, Molecules, Split

TABLES = ("edge", "node-feat", "edge-feat", "num-node-list", "num-edge-list", "graph-label")
_SPLIT_FILES = {"train": "train", "validation": "valid", "test": "test"}
LAYOUT = (
    "raw/{edge,node-feat,edge-feat,num-node-list,num-edge-list,graph-label}.csv.gz and "
    "split/scaffold/{train,valid,test}.csv.gz, without headers"
)
MOST_VALIDATION = 4096

Stamp = tuple[str, int, int]  # path, bytes, modification time in ns


def load(written: str, max_nodes: int) -> Molecules:
    """The data set in a folder of this LAYOUT (the folder raw/ may be left out, another split than scaffold be the only one),
    cached per process.

    A bond is listed once. Features are whole numbers from 0, labels 0, 1 or missing (empty or nan). Graphs of more than
    max_nodes atoms or none are left out, and where the validation split is longer than MOST_VALIDATION, graphs
    spread evenly over it are kept; info says how many.
    Raises BadInput where files are missing, unreadable, empty or do not agree with each other.
    """
    folder = Path(written).expanduser()
    raw = folder / "raw" if (folder / "raw").is_dir() else folder
    files = {name: _existing(raw, name) for name in TABLES}
    files |= {split: _existing(_split_folder(folder), name) for split, name in _SPLIT_FILES.items()}
    stamps = tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files.values())
    return _cached(stamps, max_nodes)


def _existing(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.csv.gz", folder / f"{name}.csv"):
        if path.is_file():
            return path
    raise BadInput(f"there is no {name}.csv.gz in '{folder}'; workload.data=path:FOLDER needs {LAYOUT}")


def _split_folder(folder: Path) -> Path:
    if (folder / "split" / "scaffold").is_dir():
        return folder / "split" / "scaffold"
    found = [path for path in (folder / "split").glob("*") if path.is_dir()]
    if len(found) != 1:
        raise BadInput(f"'{folder / 'split'}' has {len(found)} folders and none named scaffold; the layout is {LAYOUT}")
    return found[0]


@functools.lru_cache(maxsize=2)
def _cached(stamps: tuple[Stamp, ...], max_nodes: int) -> Molecules:
    paths = {name: Path(stamp[0]) for name, stamp in zip((*TABLES, *SPLITS), stamps, strict=True)}
    tables = _tables(paths)
    labels = tables["graph-label"]
    node_count, edge_count = (tables[name][:, 0] for name in ("num-node-list", "num-edge-list"))
    fits = (node_count <= max_nodes) & (node_count > 0)
    if not fits.any():
        raise BadInput(
            f"no graph in '{paths['edge'].parent}' has at most workload.max_nodes={max_nodes} nodes: raise it"
        )
    columns = (
        _padded(tables["node-feat"], node_count, fits),
        _padded(tables["edge-feat"], edge_count, fits),
        _padded(tables["edge"], edge_count, fits),
        node_count.astype(np.int32),
        edge_count.astype(np.int32),
        np.nan_to_num(labels).astype(np.float32),
        (~np.isnan(labels)).astype(np.float32),
    )
    splits, left_out = {}, {}
    for split in SPLITS:
        rows = _rows(paths[split], len(labels))
        left_out[split] = int((~fits[rows]).sum())
        rows = rows[fits[rows]]
        if split == "validation" and len(rows) > MOST_VALIDATION:
            rows = rows[np.linspace(0, len(rows) - 1, MOST_VALIDATION).astype(int)]
        splits[split] = Split(*(column[rows] for column in columns))
        _check(paths[split], splits[split])
    info = {
        "source": "Open Graph Benchmark files",
        "sha256": _digest(list(paths.values())),
        "examples": {split: len(part.labels) for split, part in splits.items()},
        "graphs_left_out": left_out,
        "max_nodes": max_nodes,
        "missing_labels": float(np.isnan(labels).mean()),
    }
    names = tuple(f"label {i}" for i in range(labels.shape[1]))
    sizes = [tuple((1 + tables[name].max(axis=0, initial=0)).tolist()) for name in ("node-feat", "edge-feat")]
    return Molecules(splits, sizes[0], sizes[1], names, info)


def _tables(paths: dict[str, Path]) -> dict[str, np.ndarray]:
    """The TABLES, which agree with each other."""
    tables = {name: (_numbers if name == "graph-label" else _whole)(paths[name]) for name in TABLES}
    nodes, edges, labels = tables["num-node-list"], tables["num-edge-list"], tables["graph-label"]
    needed = {
        "num-edge-list": len(nodes),
        "graph-label": len(nodes),
        "node-feat": nodes.sum(),
        "edge-feat": edges.sum(),
        "edge": edges.sum(),
    }
    for name, rows in needed.items():
        if len(tables[name]) != rows:
            raise BadInput(
                f"'{paths[name]}' has {len(tables[name])} rows, and the other files need {rows}: copy the data set again"
            )
    ends = tables["edge"]
    if ends.shape[1] != 2 or np.any(ends >= np.repeat(nodes[:, 0], edges[:, 0])[:, None]):
        raise BadInput(f"'{paths['edge']}' must have two node numbers a row, below its graph's number of nodes")
    if not np.all(np.isnan(labels) | np.isin(labels, (0.0, 1.0))):
        raise BadInput(f"'{paths['graph-label']}' has labels other than 0, 1 and missing; this family is binary")
    return tables


def _check(path: Path, part: Split) -> None:
    positive = np.any(part.labels * part.present > 0, axis=0)
    negative = np.any((1.0 - part.labels) * part.present > 0, axis=0)
    if not np.any(positive & negative):
        raise BadInput(
            f"no label has both a 0 and a 1 among the {len(part.labels)} graphs of '{path}': give more graphs"
        )


def _rows(path: Path, graphs: int) -> np.ndarray:
    rows = _whole(path)[:, 0]
    if np.any(rows >= graphs):
        raise BadInput(f"'{path}' names graph {rows.max()}, and there are {graphs}: copy the data set again")
    return rows


def _padded(rows: np.ndarray, count: np.ndarray, fits: np.ndarray) -> np.ndarray:
    """Rows of all graphs one after the other -> (G, longest that fits, columns); graphs that do not fit stay zero."""
    graph = np.repeat(np.arange(len(count)), count)
    slot = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    kept = fits[graph]
    longest = max(int(count[fits].max()), 1)
    padded = np.zeros((len(count), longest, rows.shape[1]), np.min_scalar_type(int(rows.max(initial=0))))
    padded[graph[kept], slot[kept]] = rows[kept]
    return padded


def _whole(path: Path) -> np.ndarray:
    """A table of whole numbers from 0, int64."""
    numbers = _numbers(path)
    if not np.all((numbers >= 0) & (numbers == np.round(numbers))):
        raise BadInput(f"'{path}' must hold whole numbers from 0 in every field; the layout is {LAYOUT}")
    return numbers.astype(np.int64)


def _numbers(path: Path) -> np.ndarray:
    """A table without a header, (rows, columns) float64, empty fields and nan as NaN."""
    import pyarrow as pa
    from pyarrow import csv

    def read(names: list[str] | None) -> Any:
        return csv.read_csv(
            path,
            csv.ReadOptions(autogenerate_column_names=names is None, column_names=names),
            csv.ParseOptions(ignore_empty_lines=False),
            csv.ConvertOptions(
                column_types=dict.fromkeys(names or (), pa.float64()), null_values=["", "nan", "NaN", "NA"]
            ),
        )

    try:
        names = read(None).column_names
        table = read(names)  # again, as a column of missing values only has no type
        columns = [table.column(name).to_numpy(zero_copy_only=False).astype(np.float64) for name in names]
    except (pa.ArrowException, OSError, EOFError) as error:
        reason = (str(error).splitlines() or ["unknown"])[0]
        raise BadInput(f"'{path}' cannot be read as numbers ({reason}); the layout is {LAYOUT}") from None
    if not len(columns[0]):
        raise BadInput(f"'{path}' is empty; the layout is {LAYOUT}")
    return np.stack(columns, axis=1)


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()
