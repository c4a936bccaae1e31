"""Files are whole or absent, and JSON is standard JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from harness.records.files import atomic_path, atomic_write_text, read_json, write_json
from workloads.base import BadInput


def test_json_round_trip_turns_non_finite_numbers_into_null(tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    value = {
        "alpha": np.float32(0.5),
        "n": np.int64(7),
        "interval": (float("-inf"), float("nan")),
        "widths": np.array([[1, 2], [3, 4]]),
        "path": tmp_path,
        "ok": np.bool_(True),
        "none": None,
    }
    write_json(path, value)
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == read_json(path)
    assert read_json(path) == {
        "alpha": 0.5,
        "n": 7,
        "interval": [None, None],
        "widths": [[1, 2], [3, 4]],
        "path": str(tmp_path),
        "ok": True,
        "none": None,
    }


def test_json_refuses_unknown_types_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    write_json(path, 1)
    with pytest.raises(TypeError, match="object"):
        write_json(path, {"x": object()})
    assert read_json(path) == 1


@pytest.mark.parametrize("text", ["", "{", '{"a": NaN}', "[" * 100_000, "\udcff"])
def test_broken_json_is_bad_input(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BadInput, match="not valid JSON"):
        read_json(path)


def test_missing_json_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        read_json(tmp_path / "x.json")


def test_a_failed_write_leaves_the_old_content_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic_write_text(path, "old")

    def interrupted() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_replaces_a_link_not_its_target(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("precious")
    link.symlink_to(target)
    atomic_write_text(link, "new")
    assert (target.read_text(), link.read_text()) == ("precious", "new")
