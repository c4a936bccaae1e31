"""What comes from others (results, tables, logs, YAML) runs no code and writes nothing outside of its folder.

Beside this: hostile pages in tests/report/test_hostile.py, SQL and arithmetic in tests/records, job scripts in tests/launchers.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import pickle
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import cli, fit, report, runs, score, study, train, wandb
from harness.engine.signals import Interrupted
from harness.launchers.slurm.manifest import read as read_manifest
from harness.optimizers import OPTIMIZERS
from harness.parametrizations import PARAMETRIZATIONS
from harness.prediction import Target, write_down
from harness.records.store import Store
from harness.tracking.journal import Journal
from harness.transfer import command as transfer
from harness.tuning.space import read_space
from tests.engine.storm import some_trials
from tests.engine.test_faults import EVERY_CHUNK, Acts, same, send
from tests.trials import run
from workloads.base import BadInput

ROOT = Path(__file__).resolve().parents[1]
MARKUP = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"
SHELL = "$(touch {0}) `touch {0}` ; touch {0} | touch {0}"

# --- the source: nothing that could run what it reads

BANNED_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "torch", "code", "pty"}
BANNED_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.full_load"} | {
    "yaml.unsafe_load", "yaml.load_all", "np.frombuffer_object", "hydra.utils.instantiate", "np.fromregex", "pd.read_pickle",
}  # fmt: skip
RUN_USER_CODE = {  # the files that a command line names
    "harness/laws/custom.py",
    "harness/optimizers/user.py",
    "harness/algoperf/apart.py",
    "harness/algoperf/submission.py",
}


def faults_of(path: str, source: str) -> list[str]:
    """What in a module could run code that it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in BANNED_MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found += [node.module] if node.module.split(".")[0] in BANNED_MODULES else []
        elif isinstance(node, ast.Call):
            name, keywords = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            found += [name] if name in BANNED_CALLS and path not in RUN_USER_CODE else []
            found += [f"{name}(shell=True)"] if keywords.get("shell", "False") != "False" else []
            found += [f"{name}(allow_pickle)"] if keywords.get("allow_pickle", "False") != "False" else []
            if name in ("np.load", "np.savez", "np.savez_compressed", "np.save") and "allow_pickle" not in keywords:
                found.append(f"{name} without allow_pickle=False")
            if name.endswith((".exec_module", "spec_from_file_location")) and path not in RUN_USER_CODE:
                found.append(name)
    return [f"{path}: {what}" for what in found]


def test_the_source_reads_nothing_that_could_run() -> None:
    files = [path for part in ("harness", "workloads", "hydra_plugins") for path in (ROOT / part).rglob("*.py")]
    assert len(files) > 200
    faults = [fault for path in files for fault in faults_of(str(path.relative_to(ROOT)), path.read_text())]
    assert not faults


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import yaml\nyaml.load(text)",
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "eval(text)",
        "spec.loader.exec_module(module)",
    ],
)
def test_the_scan_finds_what_it_is_for(source: str) -> None:
    assert len(faults_of("harness/x.py", source)) == 1


# --- planted pickles


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self._canary}'",)


def bombs(canary: Path) -> dict[str, bytes]:
    """Files that run code where they are unpickled."""
    objects = np.array([Bomb(canary)], object)
    array, archive = io.BytesIO(), io.BytesIO()
    np.save(array, objects, allow_pickle=True)
    np.savez(archive, allow_pickle=True, meta=np.array('{"step": 6}'), leaf_0=objects)  # type: ignore[arg-type]
    return {"a pickle": pickle.dumps(Bomb(canary)), "an .npy": array.getvalue(), "an .npz": archive.getvalue()}


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that appears if something ran."""
    path = tmp_path / "canary"
    yield path
    assert not list(tmp_path.rglob("canary*"))


def test_the_bombs_are_live(tmp_path: Path) -> None:
    for i, content in enumerate(bombs(tmp_path / "c").values()):
        loaded = pickle.loads(content) if i == 0 else np.load(io.BytesIO(content), allow_pickle=True)
        if i == 2:
            loaded["leaf_0"]
        (tmp_path / "c").unlink()


def test_pickles_in_place_of_checkpoints(tmp_path: Path, canary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Even with the right checksum they are refused, by name, and the pack starts over."""
    trials = some_trials(2)
    run(trials, Store(tmp_path / "calm"))
    for name, body in bombs(canary).items():
        store = Store(tmp_path / name)
        with pytest.raises(Interrupted):
            run(trials, store, observers=[Acts(3, send(signal.SIGTERM))], **EVERY_CHUNK)
        for path in (store.root / "checkpoints").iterdir():
            path.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        capsys.readouterr()
        resumed = Acts(0, lambda chunk: None)
        run(trials, store, observers=[resumed])
        assert capsys.readouterr().out.count("cannot be used") == 2
        assert resumed.starts[0] == 0
        assert same(store.root, tmp_path / "calm") == 2


def test_pickles_in_place_of_records_and_tables(tmp_path: Path, canary: Path) -> None:
    store = Store(tmp_path / "study")
    store.append([{"trial": "a" * 16, "status": "ok"}])
    for number, body in enumerate(bombs(canary).values()):
        for folder in (store.root / "trials", store.root / "curves"):
            folder.mkdir(exist_ok=True)
            (folder / f"bomb{number}.parquet").write_bytes(body)
        (store.root / "trials.parquet").write_bytes(body)
        assert store.finished() == {"a" * 16}
        assert store.curves().num_rows == 0
        for suffix in ("parquet", "csv", "json", "jsonl", "csv.gz"):
            table = tmp_path / f"runs.{suffix}"
            table.write_bytes(body)
            assert cli.run(fit.main, ["law=power_law", f"runs={table}"]) == 2
    assert len(list(store.root.rglob("*.corrupt"))) == 7  # trials.parquet.corrupt holds the last of three


# --- links that lead out of a results folder

SMALL = ["workload=regression", "workload.width=4", "workload.batch_size=4", "budget.steps=12", "evaluations=6"]


def digest(folder: Path) -> dict[str, str]:
    """Every path below a folder, and what it holds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder beside the results that must stay as it is."""
    folder = tmp_path / "outside"
    (folder / "victim").mkdir(parents=True)
    for name in ("precious.txt", "victim/precious.txt", "trials.parquet", "old.tmp"):
        (folder / name).write_text("precious")
    os.utime(folder / "old.tmp", (0, 0))
    before = digest(folder)
    yield folder
    assert digest(folder) == before


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study as others might hand it over: two trials, a report's inputs."""
    root = tmp_path_factory.mktemp("recorded") / "evil"
    store = Store(root)
    run(some_trials(2), store)
    store.compact()
    return root


@pytest.fixture
def evil(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "results" / "evil"
    shutil.copytree(recorded, root)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    return root


def commands(root: Path) -> dict[str, Callable[[], int]]:
    """Every command that writes into a study's folder."""
    results, name = f"results={root.parent}", f"study={root.name}"
    return {
        "train": lambda: cli.run(train.main, [*SMALL, "seed=7", f"study_name={root.name}", results]),
        "report": lambda: cli.run(report.main, [name, results]),
        "mirror": lambda: cli.run(wandb.main, ["sync", name, results, "mode=offline"]),
        "list": lambda: cli.run(runs.main, [name, results]),
    }


LINKS: dict[
    str, tuple[str, str]
] = {  # what is replaced by a link -> where the link leads; the commands that would follow it
    "trials": ("", "train list"),
    "curves": ("", "train mirror"),
    "checkpoints": ("", "train"),
    "configs": ("", "train"),
    "figures": ("", "report"),
    "report.html": ("precious.txt", "report"),
    "figures/training_curves_0.png": ("precious.txt", "report"),
    "wandb": ("", "mirror"),
    "wandb/synced.jsonl": ("precious.txt", "mirror"),
    "trials.parquet": ("trials.parquet", "train list"),
    "study.yaml": ("precious.txt", "report"),
}


@pytest.mark.parametrize("name", LINKS)
def test_links_are_not_followed_out(name: str, evil: Path, outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused with a message, or replaced; whatever the command, what lies outside stays as it was."""
    target, used = LINKS[name]
    link = evil / name
    link.parent.mkdir(exist_ok=True)
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(outside / target)
    for command in used.split():
        code = commands(evil)[command]()
        said = capsys.readouterr()
        assert code in (0, 1, 2), said
        assert code == 0 or "symbolic link" in said.err + said.out, said
    if name == "report.html":
        assert not link.is_symlink()


# --- a results folder full of attacks


def test_ids_that_are_paths(evil: Path, outside: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A trial's id names files, and folders that are removed: a fragment with any other id is set aside."""
    ids = ["../../../outside/victim", "x/victim", "/etc/passwd", "a" * 15, "A" * 16, "a" * 16 + "\n", "..", ""]
    (evil / "wandb" / "offline-run-1-..").mkdir(parents=True)
    (evil / "wandb" / "offline-run-1-x").symlink_to(outside)
    good = Store(evil).trials()
    for number, trial in enumerate(ids):
        row = {"trial": [trial], "status": ["ok"], "finished_at": ["now"], "config": ["{}"]}
        pq.write_table(pa.table(row), evil / "trials" / f"bad{number}.parquet")
        point = {"trial": [trial], "attempt": ["x"], "step": [1]}
        pq.write_table(pa.table(point), evil / "curves" / f"bad{number}.parquet")
    Store(evil).curves()
    assert Store(evil).trials().equals(good)
    assert len(list(evil.rglob("bad*.corrupt"))) == 2 * len(ids)
    assert caplog.text.count("16 hexadecimal digits") == 2 * len(ids)
    assert commands(evil)["mirror"]() == 0


def test_a_folder_full_of_attacks(evil: Path, outside: Path, canary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through every command that reads a study: listed, exported, reported, fitted, mirrored, trained into."""
    code = evil / "evil.py"
    code.write_text(f"open({str(canary)!r}, 'w')\ndef law(N, *, E, A): return E\nlaw = make = law\n")
    texts = [
        MARKUP,
        SHELL.format(canary),
        "../../outside/victim",
        f"{code}:law",
        "\x1b]0;owned\x07",
        "!!python/name:os.system",
    ]
    rows = [
        {"trial": f"{i:016x}", "status": "ok", "final_loss": 1.0 / (i + 1), "params": 10**i, "workload.width": i + 1}
        | {"optimizer.learning_rate": 2.0**-i, "seed": i, "huge": 10**400, "config": json.dumps({"x": text})}
        | dict.fromkeys(("workload", "study", "pack", "error", "xla_flags", "device", "finished_at", f"x.{text}"), text)
        for i, text in enumerate(texts)
    ]
    Store(evil).append(rows, {row["trial"]: {"step": [1], "train_loss": [1.0]} for row in rows})
    (evil / "study.yaml").write_text(f"study: {{question: !!python/object/apply:os.system ['touch {canary}']}}")
    for name in ("fit", "transfer", "claims", "prediction", "checks", "stages"):
        entry = {"law": f"{code}:law", "params": {MARKUP: 1}, "verdict": MARKUP, "drift_exponent": 10**400}
        (evil / f"{name}.json").write_text(json.dumps({"../../outside/victim": entry, MARKUP: entry, str(code): entry}))
    for command in commands(evil).values():
        assert command() in (0, 1, 2)
    results, table = f"results={evil.parent}", evil.parent.parent / "export.csv"
    assert cli.run(runs.main, [f"study={evil.name}", results, f"export={table}"]) == 0
    out = evil.parent.parent / "out"
    laws = ["law=power_law", "columns.N=params", "columns.loss=final_loss"]
    rates = [
        "columns.width=workload.width",
        "columns.lr=optimizer.learning_rate",
        "columns.loss=final_loss",
        "by=study",
    ]
    for main, words in ((fit.main, [f"runs={evil}", *laws]), (transfer.main, [f"runs={table}", *rates])):
        assert cli.run(main, [*words, f"out={out}"]) in (0, 1, 2)
    assert "<script>document" not in (out / "report.html").read_text()
    assert cli.run(study.main, ["status", "study=regression", "study.name=evil", results]) in (0, 1, 2)
    said = capsys.readouterr()
    assert "\x1b]0;owned" not in said.out + said.err
    page = (evil / "report.html").read_text()
    assert "<script>document" not in page
    assert "<img src=x" not in page


def test_what_a_study_reads_back_is_checked(tmp_path: Path) -> None:
    """Older or hostile files are refused with what to do."""
    path = tmp_path / "prediction.json"
    for content in ("[]", "3", '{"trained": 1}', "{" * 10**5, '{"scale": NaN}', "9" * 5000):
        path.write_text(content)
        with pytest.raises(BadInput, match=r"prediction\.json is n"):
            write_down(path, {}, {}, Target(1.0, {}, ()), "x", lambda content: [])
    manifest = tmp_path / "manifest.json"
    for content in ("[]", '{"version": 0, "tasks": []}', '{"version": 2}', '{"version": 1, "tasks": [[{"evil": 1}]]}'):
        manifest.write_text(content)
        with pytest.raises(BadInput, match="submit again"):
            read_manifest(manifest)
    journal = Journal(tmp_path)
    lines = [
        "{",
        "[]",
        "3",
        '{"to": {}}',
        '{"to": "x", "trial": "' + "9" * 5000,
        '{"to": "x", "trial": "a", "version": "1"}',
    ]
    journal.path.write_bytes("\n".join(lines).encode() + b"\n\0\xff")
    assert journal.known("x") == {"a": "1"}


# --- tables and logs of others


def test_names_in_tables_stay_names(tmp_path: Path, outside: Path, canary: Path) -> None:
    """Labels become names of pictures and headings of pages: they leave no folder, and are shown as text."""
    labels = [
        "../../outside/victim",
        "/etc/passwd",
        MARKUP,
        SHELL.format(canary),
        "=cmd|'/C calc'!A0",
        "a" * 300,
        ".",
        "\x00x",
    ]
    rows = [
        {"submission": s, "study": k, "workload": w, "trial": 0, "ruleset": r, "time_to_target_s": 1.5, "hit_eval_index": 3}
        for r in labels[:4] for s in labels[:5] for w in labels[2:4] for k in (0, 1)
    ]  # fmt: skip
    table, out = tmp_path / "logs.json", tmp_path / "deep" / "out"
    table.write_text(json.dumps(rows))
    assert cli.run(score.main, [f"logs={table}", f"out={out}", "bootstrap=0"]) == 0
    page = (out / "report.html").read_text()
    assert "<script>document" not in page
    assert "<img src=x" not in page
    assert {path.parent for path in (tmp_path / "deep").rglob("*.*")} <= {out, out / "figures", out.parent}
    assert not (tmp_path / "deep" / "outside").exists()


def test_a_wandb_export_full_of_attacks(tmp_path: Path, outside: Path, canary: Path) -> None:
    nested: Any = {"value": MARKUP}
    for _ in range(200):
        nested = {"../x": nested}
    config = {
        "width": 8,
        "lr": 1e-3,
        "_wandb": {"x": 1},
        "deep": nested,
        "code": f"__import__('os').system('touch {canary}')",
    }
    exported = [
        {"id": f"../{i}", "name": MARKUP, "config": json.dumps(config | {"lr": 2.0**-i}), "state": SHELL.format(canary),
         "summaryMetrics": {"loss": loss, "N": 10.0**i, "artifact": "file:///etc/passwd"}}
        for i, loss in enumerate([2.0, 1.5, 1.2, 1.1, 10**400, float("nan"), "Infinity", "__import__('os')"])
    ]  # fmt: skip
    table, out = tmp_path / "export.json", tmp_path / "out"
    table.write_text(json.dumps(exported))
    words = [f"runs={table}", "law=power_law", "columns.N=summaryMetrics.N", "columns.loss=summaryMetrics.loss"]
    assert cli.run(fit.main, [*words, f"out={out}"]) == 2  # a loss that is text is named
    assert cli.run(fit.main, [*words, f"out={out}", 'where="config.lr" > 0.01']) in (0, 2)
    for attack in (
        f"__import__('os').system('touch {canary}')",
        "N.__class__",
        "().__class__",
        "open('x')",
        "N if N else N",
    ):
        assert cli.run(fit.main, [*words[:2], words[3], f"columns.N={attack}"]) == 2
    for attack in (f"1=1; COPY (SELECT 1) TO '{canary}'", "x IN (SELECT * FROM read_csv('/etc/passwd'))", "1=1 --"):
        assert cli.run(fit.main, [*words, f"where={attack}"]) == 2


NUMBERS = {
    "4,000 digits": "9" * 4000,
    "5,000 digits": "9" * 5000,
    "1e999999999": "1e999999999",
    "-0.0": "-0.0",
    "many zeros": "0" * 10**5 + "1",
    "hexadecimal": "0x" + "f" * 5000,
    "thousands": '"1' + ",000" * 2000 + '"',
    "a bomb of units": "9" * 90 + "T",
}


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl"])
@pytest.mark.parametrize("number", NUMBERS)
def test_giant_numbers_are_named_or_counted(
    tmp_path: Path, suffix: str, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one cell of a table and as a target: no traceback, no hang; the row is counted as left out or the cell named."""
    text = NUMBERS[number]
    lines = [f'{{"N": {n}, "loss": {1.0 / n}}}' for n in range(2, 9)] + [f'{{"N": {text.strip(chr(34))}, "loss": 1}}']
    content = {
        "csv": "N,loss\n" + "\n".join(f"{n},{1.0 / n}" for n in range(2, 9)) + f"\n{text},1\n",
        "json": f"[{','.join(lines)}]",
        "jsonl": "\n".join(lines),
    }[suffix]
    table = tmp_path / f"runs.{suffix}"
    table.write_text(content)
    code = cli.run(runs_of(table), [])
    said = capsys.readouterr()
    assert code in (0, 2)
    assert len(said.err) < 2000


def runs_of(table: Path) -> Callable[[list[str]], int]:
    """Reads a table as the commands do, without a fit."""
    from harness.points import Source, read_points

    def main(_: list[str]) -> int:
        found = read_points(Source(runs=str(table)), ["N", "loss"])
        assert all(np.isfinite(column).all() for column in found.columns.values())
        return 0

    return main


# --- YAML of others

YAML = {
    "an object": "!!python/object/apply:os.system ['touch {0}']",
    "a name": "!!python/name:os.system",
    "a module": "!!python/module:os",
    "a tuple": "!!python/tuple [1, 2]",
    "an unknown tag": "!evil x",
    "a date that is none": "2001-99-99",
    "5,000 digits": "9" * 5000,
    "no UTF-8": "\udcff",
    "deep": "[" * 2000,
}


@pytest.mark.parametrize("attack", YAML)
def test_yaml_is_data(attack: str, tmp_path: Path, canary: Path) -> None:
    path = tmp_path / "file.yaml"
    content = YAML[attack].format(canary) if "{0}" in YAML[attack] else YAML[attack]
    path.write_bytes(f"leaves: {content}\nlearning_rate: {content}\n".encode(errors="surrogateescape"))
    with pytest.raises(BadInput, match=r"file\.yaml"):
        PARAMETRIZATIONS["table"](file=str(path)).attention_scale(1.0)  # type: ignore[call-arg]
    if attack in ("an object", "a name", "a module", "a tuple", "an unknown tag"):
        with pytest.raises(BadInput, match=r"file\.yaml"):
            read_space(path, OPTIMIZERS["adamw"]())
    if "python" in content:  # a value of the command line or of a study's YAML
        words = [f"study.question={content}", "study=regression", "dry_run=true", f"results={tmp_path / 'results'}"]
        assert cli.run(study.main, words) in (0, 2)


@pytest.mark.parametrize("name", ["../outside/victim", "/etc/x", "..", ".", "", "a/b"])
def test_a_studys_name_is_no_path(name: str, tmp_path: Path, outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = f"results={tmp_path / 'results'}"
    assert cli.run(study.main, ["study=regression", f"study.name='{name}'", "dry_run=true", results]) == 2
    assert cli.run(train.main, [*SMALL, f"study_name='{name}'", "dry_run=true", results]) == 2
    assert capsys.readouterr().err.count("cannot name a study") == 2
    assert not (tmp_path / "a").exists()
