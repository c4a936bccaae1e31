"""Parallel text of the user."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from workloads.base import BadInput
from workloads.data import parallel
from workloads.data.corpus import SPLITS
from workloads.data.parallel import EOS, PAD, SPECIAL, UNKNOWN, load_files
from workloads.translation import Translation

MOST = {"train": 10**6, "validation": 256, "test": 256}


def write(folder, source, target):
    paths = folder / "text.en", folder / "text.de"
    for path, content in zip(paths, (source, target), strict=True):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return paths


def numbered(count):
    """Sentences w1 .. of one to nine words, translated in reverse with another word."""
    sentences = [[f"w{(i * 7 + k) % 50}" for k in range(1 + i % 9)] + [f"u{i}"] for i in range(count)]
    source = "".join(" ".join(words) + "\n" for words in sentences)
    target = "".join(" ".join("ü" + word for word in reversed(words)) + "\n" for words in sentences)
    return source, target


def test_pairs_stay_together_and_words_come_back(tmp_path):
    source, target = numbered(400)
    corpus = load_files(*write(tmp_path, source, target), 32, 100, MOST)
    assert sum(corpus.info["pairs"].values()) == 400
    assert 15 > corpus.info["pairs"]["test"] > 5 or corpus.info["pairs"]["test"] < 40
    assert len(corpus.vocabulary) == 100
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in (source, target)]
    assert list(corpus.info["sha256"]) == digests
    seen = 0
    for split in ("train", "validation", "test"):
        assert corpus.source[split].shape[1] == corpus.source["train"].shape[1] == 11
        for a, b in zip(corpus.source[split], corpus.target[split], strict=True):
            assert np.sum(a == EOS) == np.sum(b == EOS) == 1
            there, back = (row[(row != PAD) & (row != EOS)] for row in (a, b))
            assert len(there) == len(back)
            for x, y in zip(there, back[::-1], strict=True):
                if UNKNOWN not in (x, y):
                    seen += 1
                    assert corpus.vocabulary[y] == "ü" + corpus.vocabulary[x]
    assert seen > 1000


def test_a_sentence_is_in_one_split_only(tmp_path):
    source, target = numbered(200)
    corpus = load_files(*write(tmp_path, source * 2, target * 2), 32, 1000, MOST)
    held = {tuple(row) for split in ("validation", "test") for row in corpus.source[split]}
    assert held.isdisjoint(tuple(row) for row in corpus.source["train"])


def test_few_pairs_are_spread_over_the_file_and_are_the_first_of_more(tmp_path):
    """The word of a line is its number."""
    paths = write(tmp_path, *("".join(f"{word}{i}\n" for i in range(4000)) for word in "ab"))

    def lines(train):
        most = {"train": train, "validation": 60, "test": 60}
        corpus = load_files(*paths, 9, 2**16, most)
        assert corpus.info["pairs"] == most
        return {split: [corpus.vocabulary[row[0]] for row in corpus.source[split]] for split in SPLITS}, corpus.info

    (few, info), (more, again) = lines(60), lines(900)
    assert more["train"][:60] == few["train"]
    assert 1400 < np.mean([int(word[1:]) for word in few["train"]]) < 2600, "4 standard errors about the middle"
    assert info["unknown"]["test"] == again["unknown"]["test"] == 1.0
    assert "'train': 60" in info["split"]


def test_more_than_fits_is_refused(tmp_path, monkeypatch):
    paths = write(tmp_path, *numbered(200))
    monkeypatch.setattr(parallel, "MOST_BYTES", 100 * 2 * 11 * 2)
    assert load_files(*paths, 32, 100, MOST | {"train": 50}).info["pairs"]["train"] == 50
    with pytest.raises(BadInput, match=r"lower workload\.train_sentences=1000000 or workload\.max_length=32"):
        load_files(*paths, 32, 100, MOST)


@pytest.mark.parametrize("word", SPECIAL)
def test_words_written_like_special_ones_are_unknown(tmp_path, word):
    texts = [text.replace("w3 ", f"{word} ") for text in numbered(200)]
    assert f"{word} " in texts[0]
    corpus = load_files(*write(tmp_path, *texts), 32, 1000, MOST)
    for tokens in (*corpus.source.values(), *corpus.target.values()):
        for sentence in tokens:
            end = sentence.tolist().index(EOS)
            assert np.all(sentence[:end] >= UNKNOWN)
            assert np.all(sentence[end + 1 :] == PAD)
    plain = load_files(*write(tmp_path, *numbered(200)), 32, 1000, MOST)
    assert np.sum(corpus.source["train"] == UNKNOWN) > np.sum(plain.source["train"] == UNKNOWN)


def test_long_and_empty_sentences_are_left_out(tmp_path):
    source, target = numbered(300)
    corpus = load_files(*write(tmp_path, source + "a\n\n", target + "\nb\n"), 6, 1000, MOST)
    assert corpus.info["left_out"] == {"empty": 2, "too_long": 300 - corpus.info["pairs"]["train"] - sum(
        corpus.info["pairs"][split] for split in ("validation", "test")
    )}  # fmt: skip
    assert corpus.source["train"].shape[1] == 6


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("a b\nc\n", "x y\n", "has 2 lines and .* 1"),
        (b"fine\n\xff\xfe\n", "x\ny\n", r"not UTF-8 text \(line 2"),
        ("", "", "leave 0 pairs to the train split"),
        ("a\n" * 50, "x\n" * 50, "leave 0 pairs to the .* split"),
        ("a b c d e\n" * 50, "x\n" * 50, r"workload\.max_length=4"),
    ],
)
def test_bad_files(tmp_path, source, target, message):
    with pytest.raises(BadInput, match=message):
        load_files(*write(tmp_path, source, target), 4, 1000, MOST)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("path:only_one.txt", "does not name two files"),
        ("path:missing.en,missing.de", "no file 'missing.en'"),
        ("wmt", "unknown workload.data 'wmt'"),
    ],
)
def test_bad_data_fields(data, message):
    with pytest.raises(BadInput, match=message):
        Translation(data=data).load()


def test_a_workload_reads_files_again_when_they_change(tmp_path):
    source, target = numbered(300)
    first, second = write(tmp_path, source, target)
    workload = Translation(data=f"path:{first},{second}", validation_sentences=10)
    data = workload.load()
    assert len(data.arrays["validation_source"]) == 10
    assert workload.oracle_metric() is None
    assert 0 < workload.trivial_metric() < 50
    write(tmp_path, source + "new\n", target + "neu\n")
    assert workload.load().info["sha256"] != data.info["sha256"]
