"""Corpora by name and path: what is split how, what is recorded, and what every bad corpus is told."""

import dataclasses
import hashlib
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import pytest

from workloads.base import BadInput
from workloads.data.corpus import SPLITS
from workloads.data.shards import HEADER, MAGIC
from workloads.data.text import load_corpus


def streams(corpus):
    return [getattr(corpus, split) for split in SPLITS]


def joined(corpus):
    return b"".join(stream.tobytes() for stream in streams(corpus))


def write_tokens(path, tokens, header=None):
    head = np.zeros(HEADER, "<i4")
    head[:3] = header or (0, 0, 0)
    path.write_bytes((head.tobytes() if header else b"") + np.asarray(tokens, "<u2").tobytes())
    return path


def test_stdlib_is_python_source_split_by_file_in_about_90_5_5():
    corpus = load_corpus("stdlib")
    shares = np.array([len(s) for s in streams(corpus)]) / len(joined(corpus))
    np.testing.assert_allclose(shares, [0.90, 0.05, 0.05], atol=0.02)
    assert corpus.vocab_size == 256
    assert corpus.train.dtype == np.uint8
    assert len(corpus.train) > 2_000_000
    source = Path(dataclasses.__file__).read_bytes()
    assert sum(source in stream.tobytes() for stream in streams(corpus)) == 1, "a file is in one split, whole"
    assert b"site-packages/" not in json.dumps(dict(corpus.info)).encode()


def test_stdlib_info_identifies_the_corpus():
    corpus = load_corpus("stdlib")
    info = json.loads(json.dumps(dict(corpus.info)))
    assert info["sha256"] == hashlib.sha256(joined(corpus)).hexdigest()
    assert info["python"] == platform.python_version()
    assert info["tokens"] == {split: len(getattr(corpus, split)) for split in SPLITS}
    assert info["files"] > 100
    assert len(info["files_sha256"]) == 64
    assert "by file" in info["split"]


def test_corpora_are_cached_and_read_only():
    load_corpus("stdlib")
    start = time.perf_counter()
    corpus = load_corpus("stdlib")
    assert time.perf_counter() - start < 0.01
    assert load_corpus("stdlib") is corpus
    with pytest.raises(ValueError, match="read-only"):
        corpus.train[0] = 0


def test_one_file_is_split_in_contiguous_blocks(tmp_path):
    content = bytes(np.random.default_rng(0).integers(32, 127, 2000, dtype=np.uint8))
    (tmp_path / "book.txt").write_bytes(content)
    corpus = load_corpus(f"path:{tmp_path / 'book.txt'}")
    assert [len(s) for s in streams(corpus)] == [1800, 100, 100]
    assert joined(corpus) == content
    assert "contiguous" in corpus.info["split"]
    assert corpus.info["files"] == 1
    assert joined(load_corpus(str(tmp_path / "book.txt"))) == content, "the prefix may be left out"


def test_a_changed_file_is_another_corpus(tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("a" * 1000)
    before = load_corpus(str(book))
    book.write_text("b" * 1000)
    os.utime(book, ns=(1, 1))
    assert load_corpus(str(book)).info["sha256"] != before.info["sha256"]


def test_a_folder_of_many_files_is_split_by_file_wherever_it_lies(tmp_path):
    for root in ("here", "there"):
        for i in range(100):
            (tmp_path / root / f"part{i % 3}").mkdir(parents=True, exist_ok=True)
            (tmp_path / root / f"part{i % 3}" / f"{i}.txt").write_text(f"<{i:03d}>" * 20)
    here, there = load_corpus(str(tmp_path / "here")), load_corpus(str(tmp_path / "there"))
    assert [len(s) for s in streams(here)] == [9000, 500, 500]
    assert here.info["sha256"] == there.info["sha256"]
    found = [set(stream.tobytes().split(b">")[:-1]) for stream in streams(here)]
    assert [len(f) for f in found] == [90, 5, 5]
    assert len(set.union(*found)) == 100


def test_hidden_files_do_not_count_and_globs_choose(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "index").write_bytes(b"\0")
    (tmp_path / "image.png").write_bytes(b"\0" * 10)
    (tmp_path / "a.txt").write_text("a" * 1000)
    (tmp_path / "b.txt").write_text("b" * 1000)
    assert load_corpus(f"path:{tmp_path}/*.txt").info["files"] == 2
    assert load_corpus(f"{tmp_path}/a.txt,{tmp_path}/b.txt").info["files"] == 2
    with pytest.raises(BadInput, match=r"image.png' is binary.*glob"):
        load_corpus(str(tmp_path))


@pytest.mark.parametrize("header", [None, (MAGIC, 1, 1000)])
def test_token_shards_flat_and_with_header(tmp_path, header):
    tokens = np.arange(1000) * 50
    write_tokens(tmp_path / "train.bin", tokens, header)
    write_tokens(tmp_path / "val.bin", tokens[::-1], header)
    corpus = load_corpus(f"path:{tmp_path}")
    assert corpus.train.dtype == np.uint16
    assert corpus.vocab_size == 999 * 50 + 1
    np.testing.assert_array_equal(corpus.train, tokens)
    np.testing.assert_array_equal(np.concatenate([corpus.validation, corpus.test]), tokens[::-1])
    assert "second half" in corpus.info["split"]


def test_many_shards_are_one_stream_in_order_of_their_names(tmp_path):
    for i in (2, 0, 1):
        write_tokens(tmp_path / f"web_train_{i}.bin", np.full(100, i))
    write_tokens(tmp_path / "web_val_0.bin", np.full(100, 7))
    write_tokens(tmp_path / "web_test_0.bin", np.full(100, 8))
    corpus = load_corpus(f"path:{tmp_path}/web_*.bin")
    np.testing.assert_array_equal(corpus.train, np.repeat([0, 1, 2], 100))
    assert set(corpus.validation) == {7}
    assert set(corpus.test) == {8}


def test_a_shard_without_validation_is_split_in_blocks(tmp_path):
    write_tokens(tmp_path / "tokens.bin", np.arange(1000))
    corpus = load_corpus(str(tmp_path / "tokens.bin"))
    assert [len(s) for s in streams(corpus)] == [900, 50, 50]
    assert list(corpus.validation) == list(range(900, 950))


def test_vocab_size_may_be_padded_but_not_cut(tmp_path):
    write_tokens(tmp_path / "train.bin", np.arange(1000))
    assert load_corpus(str(tmp_path), vocab_size=1024).vocab_size == 1024
    with pytest.raises(BadInput, match="set vocab_size=1000"):
        load_corpus(str(tmp_path), vocab_size=999)


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ("stdlb", "Did you mean 'stdlib'"),
        ("wikitext", "Valid names: stdlib, zipf_markov, or path:"),
        ("path:nowhere", "no file there"),
        ("nowhere/*.txt", "no file there"),
        ("path:", "no file there"),
        ("zipf_markov:expnent=2", "no setting 'expnent=2'.*exponent"),
        ("zipf_markov:seed=x", "needs a number"),
        ("zipf_markov:vocab_size=1", "vocab_size >= 2"),
        ("zipf_markov:exponent=nan", "finite exponent"),
        ("zipf_markov:vocab_size=64,order=9", "lower vocab_size or order"),
    ],
)
def test_bad_names_are_told_the_fix(corpus, message):
    with pytest.raises(BadInput, match=message):
        load_corpus(corpus)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "too short.*longer text"),
        ("short.txt", b"a" * 100, "too short.*longer text"),
        ("utf16.txt", "hello".encode("utf-16-le") * 1000, "convert it to UTF-8"),
        ("odd.bin", b"\1" * 2001, "no row of uint16"),
        ("empty.bin", b"", "no row of uint16"),
        ("val.bin", b"\1" * 2000, "add train.bin"),
        ("cut.bin", np.r_[np.array([MAGIC, 1, 5000]), np.zeros(500)].astype("<i4").tobytes(), "truncated"),
        ("new.bin", np.r_[np.array([MAGIC, 9, 5000]), np.zeros(500)].astype("<i4").tobytes(), "version 9"),
    ],
)
def test_bad_files_are_told_the_fix(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=message):
        load_corpus(f"path:{tmp_path / name}")


@pytest.mark.parametrize("name", ["secret.txt", "secret.bin"])
def test_unreadable_files_are_told_the_fix(tmp_path, monkeypatch, name):
    (tmp_path / name).write_text("a" * 1000)

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(np, "fromfile", refuse)
    with pytest.raises(BadInput, match=r"Permission denied.*make it readable"):
        load_corpus(str(tmp_path / name))
