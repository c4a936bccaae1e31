"""Whatever the records hold, the page shows it as text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.records.files import read_json, write_json
from harness.report import write_report
from harness.report.inputs import read
from harness.report.text import clean
from tests.report import synthetic
from tests.report.browser import LIGHT, needs_chromium, probe

STRINGS = [
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "'><svg onload=document.title='owned'>",
    "{{7*7}}{% raw %}",
    "]]></style></script><script>document.title='owned'</script>",
    "javascript:document.title='owned'",
    "--><b onclick=alert(1)>",
    "$x^{\\frac$ $\\alpha$ \\u202e",
    "abc\u202egpj.exe\u2066\x07\x1b[31m",
    "&lt;&#60;script&#62;",
    "損失\u0301😀",
]


def _hostile(value: Any, strings: Iterator[str]) -> Any:
    """The value with a hostile string after every string in it."""
    if isinstance(value, dict):
        return {key: _hostile(entry, strings) for key, entry in value.items()}
    if isinstance(value, list):
        return [_hostile(entry, strings) for entry in value]
    return f"{value} {next(strings)}" if isinstance(value, str) else value


def _cycle() -> Iterator[str]:
    while True:
        yield from STRINGS


@pytest.fixture(scope="module")
def hostile(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic study with hostile strings in its YAML, its JSON files, its keys and its rows."""
    root = tmp_path_factory.mktemp("hostile") / "<b>study"
    evil, strings = " ".join(STRINGS), _cycle()
    sweep = {
        "parametrization": [evil],
        evil: [evil],
        "workload.width": [16, 32],
        "optimizer.learning_rate": [evil],
    }
    described = {
        "name": evil,
        "question": evil,
        "base": {evil: evil, "workload": evil},
        "sweep": sweep,
        "analyses": [{"transfer": "workload.width"}, {evil: evil}],
        "claims": [{evil: evil}],
        "predict": {evil: evil},
    }
    synthetic.write_study(root, described, [{evil: evil, "nested": {evil: [evil]}}, evil])
    rows = [
        synthetic.row(i, "sp", width, x, 0, "2026-01-02T10:00:00+00:00")
        | dict.fromkeys(
            (
                "device",
                "code_version",
                "xla_flags",
                "packages",
                "error",
                "parametrization",
                "workload",
                "study",
            ),
            evil,
        )
        | {evil: evil}
        for i, (width, x) in enumerate((w, x) for w in (16, 32, 128) for x in (-8, -7, -6, -5))
    ]
    synthetic.write_rows(root, rows)
    label = f"{evil}/{evil}"
    for name in ("transfer.json", "fit.json"):
        entry = _hostile(read_json(study / name)["sp"], strings)
        entry["notes" if "widths" in entry else "params"][evil] = evil
        write_json(root / name, {label: entry, evil: {evil: [evil]}, "list": [evil]})
    prediction = read_json(study / "prediction.json")
    prediction["series"] = {label: _hostile(prediction["series"]["sp"], strings)}
    write_json(root / "prediction.json", prediction | {"written_at": evil})
    claims = _hostile(read_json(study / "claims.json"), strings)
    claims[0]["verdict"], claims[1]["claim"], claims[2]["evidence"][evil] = (
        evil,
        {evil: {evil: evil}},
        [evil, evil],
    )
    write_json(
        root / "claims.json",
        [*claims, evil, [evil], {"claim": {"drift": evil, "expect": "zero"}, "evidence": evil}],
    )
    write_report(root)
    return root


def test_markup_is_escaped(hostile: Path) -> None:
    page = (hostile / "report.html").read_text(encoding="utf-8")
    assert page.count("<script") == 1
    for forbidden in ("<img", "<b>study", "<b ", "<svg onload", 'onerror="', "]]></style>"):
        assert forbidden not in page
    assert "&lt;script&gt;" in page
    assert "{{7*7}}" in page
    assert "{{49}}" not in page
    assert not [c for c in page if c in "\u202e\u2066\x07\x1b"]
    assert "損失" in page


@needs_chromium
def test_nothing_hostile_runs_even_without_the_security_policy(hostile: Path) -> None:
    found = probe(hostile / "report.html", LIGHT)
    assert found["images"] == 0
    assert found["handlers"] == 0
    assert found["scripts"] == 2  # the page's own and the probe
    assert found["title"] != "owned"
    assert found["overflow"] <= 0


def test_yaml_is_data(tmp_path: Path) -> None:
    """No constructors, no interpolation of the environment, and no expansion of nested aliases."""
    (tmp_path / "study.yaml").write_text("study: {question: !!python/object/apply:os.system ['true']}")
    assert "study.yaml cannot be read" in write_report(tmp_path).read_text()
    (tmp_path / "study.yaml").write_text("study: {question: '${oc.env:HOME}'}")
    assert "${oc.env:HOME}" in write_report(tmp_path).read_text()
    bomb = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 9)}]" for i in range(9))
    bomb += "\n" + "\n".join(
        f"b{i}: &b{i} {{{', '.join(f'k{j}: ' + (f'*b{i - 1}' if i else 'x') for j in range(9))}}}" for i in range(9)
    )
    (tmp_path / "study.yaml").write_text(
        bomb + "\nstudy: {name: *a8, base: {x: *a8, b: *b8}, sweep: {y: *a8}}\ndata: [{z: *a8}]"
    )
    assert len(write_report(tmp_path).read_text()) < 500_000


def test_odd_types_are_not_fatal(tmp_path: Path) -> None:
    for document in (
        [],
        "text",
        {"study": [1]},
        {"study": {"sweep": 3, "analyses": {"a": 1}, "base": [], "claims": 1}},
    ):
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(document))
        assert isinstance(read(tmp_path).notes, list)
    for name in ("transfer.json", "fit.json", "prediction.json", "claims.json"):
        (tmp_path / name).write_text('{"a": {"widths": "x", "params": 3, "series": [], "drift_exponent": "y"}}')
    synthetic.write_rows(
        tmp_path,
        [synthetic.row(1, "a", 16, -6, 0, "2026-01-02T10:00:00+00:00") for _ in "a"]
        if "a" in synthetic.DRIFT
        else [synthetic.row(1, "sp", 16, -6, 0, "2026-01-02T10:00:00+00:00") | {"parametrization": "a"}],
    )
    assert write_report(tmp_path).exists()


def test_long_text_is_cut() -> None:
    assert len(clean("x" * 10**6)) < 30_000
    assert clean("a\u202eb\x00") == "a\\u202eb\\u0000"
