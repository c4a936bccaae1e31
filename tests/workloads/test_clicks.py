"""Click logs: the generated ones have the statistics that they claim, files in Criteo's format are read or refused."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workloads.base import BadInput
from workloads.data import clicks
from workloads.data.clicks import SPLITS, VOCABULARIES, generated, load_clicks, zipf

OFFSETS = np.cumsum((0, *VOCABULARIES[:-1]))


def test_every_field_follows_its_zipf_law():
    log = generated(0)
    ids = log.categories["train"] - OFFSETS
    for field, (size, exponent) in enumerate(zip(VOCABULARIES, clicks.EXPONENTS, strict=True)):
        assert ids[:, field].min() >= 0
        assert ids[:, field].max() < size
        expected = len(ids) * zipf(size, exponent)
        found = np.bincount(ids[:, field], minlength=size)
        chi2 = np.sum((found - expected) ** 2 / expected)
        assert abs(chi2 - (size - 1)) < 5 * (2 * size) ** 0.5


def test_counts_are_logarithms_of_whole_numbers_and_depend_on_categories():
    log = generated(0)
    for split in SPLITS:
        counts = np.expm1(log.counts[split].astype(np.float64))
        np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)
    ids, counts = log.categories["train"][:, 0], log.counts["train"][:, 0]
    means = [counts[ids == c].mean() for c in range(VOCABULARIES[0])]
    assert np.ptp(means) > 0.2


def test_labels_are_drawn_with_the_probabilities_that_are_told():
    log = generated(0)
    assert np.mean(log.probabilities["train"]) == pytest.approx(clicks.CLICK_RATE, abs=1e-6)
    for split in SPLITS:
        p, y = log.probabilities[split], log.labels[split]
        assert len(p) == len(y) == len(log.counts[split]) == clicks.EXAMPLES[split]
        assert set(np.unique(y)) == {0.0, 1.0}
        for part in np.array_split(np.argsort(p), 10):
            stderr = np.sqrt(np.sum(p[part] * (1 - p[part]))) / len(part)
            assert abs(np.mean(y[part]) - np.mean(p[part])) < 4.5 * stderr
        bayes, oracle = (log.info[name][split] for name in ("bayes_cross_entropy", "oracle_cross_entropy"))
        assert bayes == pytest.approx(np.mean(-p * np.log(p) - (1 - p) * np.log(1 - p)), rel=1e-9)
        losses = -np.log(np.where(y > 0, p, 1 - p))
        assert oracle == pytest.approx(losses.mean(), rel=1e-9)
        assert abs(oracle - bayes) < 4 * losses.std() / len(p) ** 0.5
        assert bayes < 0.75 * clicks.cross_entropy(clicks.CLICK_RATE, y)


def test_interactions_matter():
    """Additive models of the true logit leave most of its variance: 0.74 is the interactions' and crosses', of which the more
    frequent categories' part looks additive.
    """
    log = generated(0)
    p = log.probabilities["train"][:50_000]
    ids, x = log.categories["train"][:50_000] - OFFSETS, log.counts["train"][:50_000].astype(np.float64)
    logit = np.log(p / (1 - p))
    residual = logit - logit.mean()
    additive = [np.c_[x, np.abs((x - x.mean(0)) / x.std(0))]]
    additive += [(np.minimum(ids[:, f], 40)[:, None] == np.arange(41)).astype(float) for f in range(len(VOCABULARIES))]
    design = np.concatenate(additive, axis=1)
    fitted = design @ np.linalg.lstsq(design, residual, rcond=None)[0]
    share = np.var(residual - fitted) / np.var(residual)
    assert 0.55 < share < 0.75


def test_a_seed_is_another_model_and_the_same_seed_the_same():
    first, again, other = generated(0), clicks.ClickModel(0).draw(), generated(1)
    for split in SPLITS:
        np.testing.assert_array_equal(first.categories[split], again.categories[split])
        np.testing.assert_array_equal(first.labels[split], again.labels[split])
        assert np.any(first.labels[split] != other.labels[split])
    json.dumps(first.info)
    with pytest.raises(BadInput, match="generator_seed=-1"):
        load_clicks("generated", -1, 10)
    with pytest.raises(BadInput, match="path:FILE_FOLDER_OR_GLOB"):
        load_clicks("criteo", 0, 10)


def rows(count, seed=0):
    """Rows of Criteo's format as lists of strings."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        integers = [str(n) for n in rng.integers(-2, 50, 13)]
        categories = [f"{n:08x}" for n in rng.integers(0, 2**32, 26)]
        found.append([str(i % 2), *integers, *categories])
    return found


def write(path, lines, opener=open):
    with opener(path, "wt") as stream:
        stream.writelines("\t".join(line) + "\n" for line in lines)


def test_criteo_tsv(tmp_path):
    lines = rows(400)
    lines[0][1:4] = ["7", "", "-2"]
    lines[0][14:17] = ["", "00000005", "ffffffff"]
    write(tmp_path / "day_0", lines[:300])
    write(tmp_path / "day_1.gz", lines[300:], gzip.open)
    log = load_clicks(f"path:{tmp_path}", 0, 100)
    assert {split: len(labels) for split, labels in log.labels.items()} == {"train": 360, "validation": 20, "test": 20}
    np.testing.assert_array_equal(np.concatenate(list(log.labels.values())), [float(line[0]) for line in lines])
    np.testing.assert_allclose(log.counts["train"][0, :3], [np.log(8), 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(log.categories["train"][0, :3], [0, 100 + 1 + 5, 200 + 1 + (2**32 - 1) % 99])
    expected = np.array([[1 + int(word, 16) % 99 for word in line[14:]] for line in lines[380:]]) + 100 * np.arange(26)
    np.testing.assert_array_equal(log.categories["test"], expected)
    assert log.vocabularies == (100,) * 26
    assert log.categories["train"].dtype == np.int32
    assert len(log.info["sha256"]) == 64
    json.dumps(log.info)
    before = log.info["sha256"]
    write(tmp_path / "day_0", rows(300, seed=1))
    assert load_clicks(f"path:{tmp_path}/*", 0, 100).info["sha256"] != before


def test_days_are_in_the_order_of_their_numbers(tmp_path):
    expected = [
        "day",
        "day-1",
        "day_0",
        "day_1",
        "day_2",
        "day_02b",
        "day_9.x",
        "day_10",
        "day_10.x",
        "day_100",
        "days",
    ]
    for name in expected:
        write(tmp_path / name, rows(40))
    assert load_clicks(f"path:{tmp_path}", 0, 100).info["source"] == expected
    for part in ("9", "10"):
        (tmp_path / "parts" / part).mkdir(parents=True)
        write(tmp_path / "parts" / part / f"log_{part}", rows(40))
    assert load_clicks(f"path:{tmp_path}/parts/*/*", 0, 100).info["source"] == ["log_9", "log_10"]


@pytest.mark.parametrize("integers", [False, True], ids=["hexadecimal", "integers"])
def test_criteo_parquet_is_the_same_as_tsv(tmp_path, integers):
    lines = rows(100)
    lines[3][20] = lines[4][5] = ""
    write(tmp_path / "log.tsv", lines)
    columns = list(zip(*lines, strict=True))
    numbers = [[float(word) if word else None for word in column] for column in columns[:14]]
    words = [[(int(word, 16) if integers else word) if word else None for word in column] for column in columns[14:]]
    pq.write_table(pa.table({f"column {i}": c for i, c in enumerate(numbers + words)}), tmp_path / "log.parquet")
    tsv, parquet = (load_clicks(f"path:{tmp_path}/log.{kind}", 0, 50) for kind in ("tsv", "parquet"))
    for split in SPLITS:
        np.testing.assert_array_equal(tsv.categories[split], parquet.categories[split])
        np.testing.assert_array_equal(tsv.counts[split], parquet.counts[split])
        np.testing.assert_array_equal(tsv.labels[split], parquet.labels[split])


def changed(column, word):
    lines = rows(100)
    lines[7][column] = word
    return lines


MALFORMED = {
    "empty": ([], "cannot be read"),
    "39 columns": ([line[:-1] for line in rows(100)], "cannot be read .*39.*26 hexadecimal"),
    "comma": ([[",".join(line)] for line in rows(100)], "cannot be read"),
    "label": (changed(0, "2"), "neither 0 nor 1"),
    "no label": (changed(0, ""), "neither 0 nor 1"),
    "number": (changed(3, "seven"), "cannot be read"),
    "category": (changed(20, "shoes"), "column 21 has 'shoes'"),
    "one class": ([["0", *line[1:]] for line in rows(100)], "not both clicks and others"),
    "too short": (rows(4), "give more rows"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_files_are_refused(tmp_path, case):
    lines, message = MALFORMED[case]
    write(tmp_path / "log.tsv", lines)
    with pytest.raises(BadInput, match=message):
        load_clicks(f"path:{tmp_path}/log.tsv", 0, 100)


def test_missing_and_mixed_files_are_refused(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BadInput, match=r"no file there\. Give TSV or Parquet"):
            load_clicks(f"path:{place}", 0, 100)
    write(tmp_path / "a.tsv", rows(10))
    (tmp_path / "b.parquet").write_bytes(b"no parquet")
    with pytest.raises(BadInput, match="mixes"):
        load_clicks(f"path:{tmp_path}", 0, 100)
    with pytest.raises(BadInput, match="cannot be read"):
        load_clicks(f"path:{tmp_path}/b.parquet", 0, 100)
    pq.write_table(pa.table({"label": [0, 1]}), tmp_path / "b.parquet")
    with pytest.raises(BadInput, match="2 rows of 1 columns"):
        load_clicks(f"path:{tmp_path}/b.parquet", 0, 100)
    with pytest.raises(BadInput, match="hash_buckets=1"):
        load_clicks(f"path:{tmp_path}/a.tsv", 0, 1)


TOO_LONG = {
    "train.txt": r"train\.txt' has more than 90 rows: cut it, e\.g\. head -n 90 '.*train\.txt' > part\.tsv",
    "train.txt.gz": r"cut it, e\.g\. zcat '.*train\.txt\.gz' \| head -n 90 > part\.tsv",
    "train.parquet": r"train\.parquet' has 100 rows, more than 90: write fewer rows",
}


def write_table(path, lines):
    pq.write_table(pa.table({f"c{i}": column for i, column in enumerate(zip(*lines, strict=True))}), path)


@pytest.mark.parametrize("name", TOO_LONG)
def test_too_many_rows_are_refused_before_all_are_read(tmp_path, monkeypatch, name):
    monkeypatch.setattr("workloads.data.click_files.MOST_ROWS", 90)
    monkeypatch.setattr(pq, "read_table", lambda path: pytest.fail(f"'{path}' is read"))
    if name.endswith("parquet"):
        write_table(tmp_path / name, rows(100))
    else:  # the last of several blocks is malformed: who reads it says so
        write(tmp_path / name, rows(100) * 150 + [["shoes"]], gzip.open if name.endswith("gz") else open)
    with pytest.raises(BadInput, match=TOO_LONG[name]):
        load_clicks(f"path:{tmp_path}/{name}", 0, 100)


@pytest.mark.parametrize("kind", ["tsv", "parquet"])
def test_rows_are_counted_over_the_files(tmp_path, monkeypatch, kind):
    for name in ("a", "b"):
        (write if kind == "tsv" else write_table)(tmp_path / f"{name}.{kind}", rows(50))
    monkeypatch.setattr("workloads.data.click_files.MOST_ROWS", 99)
    with pytest.raises(BadInput, match=rf"up to '.*b\.{kind}' have more than 99 rows: name fewer files"):
        load_clicks(f"path:{tmp_path}", 0, 100)
    monkeypatch.setattr("workloads.data.click_files.MOST_ROWS", 100)
    assert load_clicks(f"path:{tmp_path}", 0, 100).info["examples"] == {"train": 90, "validation": 5, "test": 5}


def test_a_column_of_lists_is_refused(tmp_path):
    columns = [list(column) for column in zip(*rows(100), strict=True)]
    columns[20] = [[word] for word in columns[20]]
    pq.write_table(pa.table({f"field {i}": column for i, column in enumerate(columns)}), tmp_path / "log.parquet")
    with pytest.raises(BadInput, match=r"log\.parquet', column 21 \('field 20'\) is of type list<.*store hexadecimal"):
        load_clicks(f"path:{tmp_path}/log.parquet", 0, 100)


def test_long_held_out_blocks_are_thinned(tmp_path, monkeypatch):
    monkeypatch.setattr("workloads.data.click_files.EXAMPLES", {"validation": 5, "test": 7})
    lines = [[str(i // 2 % 2), str(i), *line[2:]] for i, line in enumerate(rows(400))]
    write(tmp_path / "log.tsv", lines)
    log = load_clicks(f"path:{tmp_path}/log.tsv", 0, 100)
    kept = {split: np.round(np.expm1(log.counts[split][:, 0])).astype(int).tolist() for split in SPLITS}
    assert kept["train"] == list(range(360))
    assert kept["validation"] == [360, 364, 369, 374, 379]
    assert (len(kept["test"]), kept["test"][0], kept["test"][-1]) == (7, 380, 399)
