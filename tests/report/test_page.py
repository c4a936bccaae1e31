"""The report of a whole study, and of studies with missing, partial or odd records."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from harness import cli
from harness.records.files import read_json, write_json
from harness.report import main, sections, write_report
from harness.report.inputs import read
from harness.report.scaling import scaling
from harness.report.trials import Scale, arrange, canonical
from tests.report import synthetic
from workloads.base import BadInput

PICTURES = {
    "learning_rate_0",
    "learning_rate_1",
    "best_learning_rate",
    "drift",
    "loss_vs_size_0",
    "loss_vs_size_1",
    "training_curves_0",
    "training_curves_1",
}


def test_the_page_answers_the_study(study: Path, page: str) -> None:
    assert page.count('class="claim ') == 3
    for claim in read_json(study / "claims.json"):
        assert f'class="claim {claim["verdict"]}"' in page
    assert "smaller models predict the loss at width 128 before it is trained" in page
    for text in (
        synthetic.STUDY["question"],
        "148 (",
        "0.1.0+0123456789ab",
        "jax: 0.10.2",
        "9f9f9f",
        "Yang et al. 2022",
        "--xla_force_host_platform_device_count=2",
        "git checkout 0123456789ab",
        "python -m harness.study study=synthetic",
        "nats/token",
    ):
        assert str(text) in page
    assert "What is missing" not in page
    assert len(page) < 3_000_000


def test_every_picture_is_on_the_page_and_a_png(study: Path, page: str) -> None:
    assert set(re.findall(r'data-figure="([^"]+)"', page)) == PICTURES
    assert {path.stem for path in (study / "figures").glob("*.png")} == PICTURES
    for path in (study / "figures").glob("*.png"):
        pixels = imread(path)
        assert pixels.shape[1] >= 1000
        assert np.ptp(pixels[..., :3], axis=(0, 1)).min() > 0.3, f"{path.name} is blank"
        assert (np.abs(pixels[..., :3] - 1).max(axis=-1) > 0.1).mean() > 0.01, f"{path.name} is nearly blank"


def test_pictures_have_alternative_texts_with_the_numbers(page: str) -> None:
    labels = re.findall(r'<svg viewBox="[^"]+" role="img" aria-label="([^"]+)"', page)
    assert len(labels) == len(PICTURES)
    assert all(len(label) > 40 for label in labels)
    assert any("Drift" in label and "does not transfer" in label for label in labels)
    assert any("trained afterwards" in label for label in labels)


def test_the_file_is_self_contained(page: str) -> None:
    assert not re.findall(
        r'(?:src|href|action|data|poster)\s*=\s*["\']?(?!#)[^"\'\s>]+', re.sub(r"data-\w+=", "", page)
    )
    assert not re.findall(r"url\((?!#)", page)
    assert "@import" not in page
    assert "http" not in re.sub(r"http-equiv", "", page)


def test_ids_are_unique(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_a_second_report_is_the_same(study: Path, page: str, tmp_path: Path) -> None:
    again = write_report(shutil.copytree(study, tmp_path / "synthetic")).read_text(encoding="utf-8")
    written = re.compile(r"written \d{4}-\d\d-\d\d \d\d:\d\d UTC")
    assert written.sub("", again) == written.sub("", page)


def test_the_drawn_band_is_the_recorded_one(study: Path) -> None:
    inputs = read(study)
    for one in arrange(inputs).series:
        law = scaling(one, inputs.notes)
        assert law is not None
        assert law.predicted_size is not None
        band = law.band(np.array([law.predicted_size]))
        assert band is not None
        # The recorded band is for a new mean like the fitted ones, which is what was predicted.
        recorded = np.array([one.prediction[key] for key in ("low", "loss", "high")])
        drawn = np.array([band.low[0], band.mean[0], band.high[0]])
        np.testing.assert_allclose(drawn, recorded, atol=0.25 * (recorded[2] - recorded[0]))
        grid = one.fit["curve"]
        np.testing.assert_allclose(law.curve(np.array(grid["inputs"])), grid["mean"], rtol=1e-9)
        assert law.observed.size == 2


def test_a_fit_without_its_curve_has_no_band(study: Path, tmp_path: Path) -> None:
    root = shutil.copytree(study, tmp_path / "synthetic")
    fits = read_json(root / "fit.json")
    del fits["sp"]["curve"]
    fits["mup"]["points"] = "none"
    write_json(root / "fit.json", fits)
    inputs = read(root)
    by_name = {one.name: scaling(one, inputs.notes) for one in arrange(inputs).series}
    sp = by_name["sp"]
    assert sp is not None
    assert sp.curve(sp.size) is None
    assert sp.band(sp.size) is None
    assert by_name["mup"] is None
    assert [note for note in inputs.notes if "'sp'" in note]


def test_diverged_trials_have_no_loss_and_are_counted(study: Path) -> None:
    series = {one.name: one for one in arrange(read(study)).series}
    widest = series["sp"].swept[-1]
    assert widest.diverged.sum() == 2
    assert np.isnan(widest.loss[widest.diverged]).all()
    x, mean = widest.means()
    assert np.isnan(mean[x == -4]).all()
    assert not widest.diverged[widest.best()].any()


def test_random_learning_rates_are_averaged_in_bins() -> None:
    rate = np.random.default_rng(0).uniform(-9, -4, 5000)
    trial = np.array([f"{i:016x}" for i in range(rate.size)])
    scale = Scale(16, trial, rate, (rate + 6.5) ** 2, np.zeros(rate.size, bool), np.ones(rate.size))
    x, mean = scale.means()
    assert x.size == 41
    np.testing.assert_allclose(mean[1:-1], (x[1:-1] + 6.5) ** 2, atol=0.05)
    assert np.abs(rate[scale.best()] + 6.5).max() <= 0.0625


def test_predicted_trials_are_not_part_of_the_sweep(study: Path) -> None:
    for one in arrange(read(study)).series:
        assert [scale.value for scale in one.swept] == list(synthetic.WIDTHS)
        assert one.predicted is not None
        assert one.predicted.value == synthetic.SCALE


def test_trials_of_other_settings_are_left_out(study: Path, tmp_path: Path) -> None:
    root = shutil.copytree(study, tmp_path / "synthetic")
    other = synthetic.row(99_999, "sp", 16, -6, 0, "2026-01-01T10:00:00+00:00") | {
        "budget.tokens": 1e5,
        "final_loss": 9.0,
    }
    synthetic.write_rows(root, [other])
    arranged = arrange(read(root))
    assert arranged.others == 1
    assert all(np.nanmax(scale.loss) < 9 for one in arranged.series for scale in one.scales)


@pytest.mark.parametrize("name", ["study.yaml", "transfer.json", "fit.json", "prediction.json", "claims.json"])
@pytest.mark.parametrize("content", [None, '{"sp": [nul', "[1, {}, null]"])
def test_a_missing_or_broken_file_leaves_a_note(study: Path, tmp_path: Path, name: str, content: str | None) -> None:
    root = shutil.copytree(study, tmp_path / "synthetic", ignore=shutil.ignore_patterns("figures", "report.html"))
    (root / name).unlink()
    if content is not None:
        (root / name).write_text(content)
    inputs = read(root)
    arrange(inputs)
    if content != "[1, {}, null]":
        assert [note for note in inputs.notes if name in note], inputs.notes
    if content is None and name in ("transfer.json", "study.yaml"):
        assert "What ran" in write_report(root).read_text(encoding="utf-8")


def test_an_empty_study_has_a_report(tmp_path: Path) -> None:
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "No trial is recorded yet." in page
    assert "study.yaml is missing" in page


def test_a_study_whose_every_trial_diverged_has_a_report(tmp_path: Path) -> None:
    rows = [synthetic.row(i, "sp", width, 0, 0, "2026-01-02T10:00:00+00:00") for i, width in enumerate((16, 32))]
    assert {row["status"] for row in rows} == {"diverged"}
    synthetic.write_study(tmp_path)
    synthetic.write_rows(tmp_path, rows)
    nothing = {
        "widths": [16, 32],
        "best_lr": [None, None],
        "best_lr_ci95": [[None, None]] * 2,
        "drift_exponent": None,
        "drift_ci95": [None, None],
        "loss_at_best": [None, None],
        "base_lr_regret": ["inf", None],
        "verdict": "undecided",
        "reason": "all diverged",
        "notes": {"16": "every learning rate diverged"},
    }
    write_json(tmp_path / "transfer.json", {"sp": nothing})
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "2 diverged" in page
    assert "every learning rate diverged" in page


def test_other_axes_and_series(tmp_path: Path) -> None:
    """A sweep of depth over optimizers with one seed, written as YAML writes 1e-3."""
    study = {
        **synthetic.STUDY,
        "sweep": {
            "optimizer": ["adamw", "lion"],
            "optimizer.b2": ["1e-3"],
            "workload.depth": [1, 2],
            "optimizer.learning_rate": [0.001, 0.003, 0.01],
        },
        "analyses": [{"transfer": "workload.depth"}],
        "claims": [],
        "base": {"workload": "image_mlp"},
        "predict": {},
    }
    synthetic.write_study(tmp_path, study)
    base = synthetic.row(0, "mup", 16, -6, 0, "2026-01-02T10:00:00+00:00")
    points = [(o, d, x) for o in ("adamw", "lion") for d in (1, 2) for x in (0.001, 0.003, 0.01)]
    rows = [
        base
        | {
            "trial": f"{i:016x}",
            "optimizer": o,
            "workload.depth": d,
            "optimizer.learning_rate": x,
            "optimizer.b2": 0.001,
            "workload": "image_mlp",
            "final_loss": 1 + i / 10,
        }
        for i, (o, d, x) in enumerate(points)
    ]
    synthetic.write_rows(tmp_path, rows)
    arranged = arrange(read(tmp_path))
    assert [one.name for one in arranged.series] == ["adamw/b2=0.001", "lion/b2=0.001"]
    assert [scale.value for scale in arranged.series[0].swept] == [1, 2]
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "stay best at the others" in page
    assert "one depth each" in page


def test_labels_match_however_numbers_are_written() -> None:
    assert canonical("adam/1e-3") == canonical("adam/0.001") != canonical("adam/0.01")
    assert canonical("2") == canonical("2.0")


def test_a_large_study_has_a_capped_table(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "MOST_ROWS", 20)
    inputs = read(study)
    table, left_out = sections.trial_table(inputs, arrange(inputs))
    assert (len(table.rows), left_out) == (20, 128)
    column = [heading for heading, _ in table.columns].index("final loss")
    shown = [row[column][1] for row in table.rows]
    assert shown == sorted(shown)  # type: ignore[type-var]


def test_the_command(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = shutil.copytree(study, tmp_path / "synthetic", ignore=shutil.ignore_patterns("figures", "report.html"))
    (root / "transfer.json").unlink()
    assert main(["study=synthetic", f"results={tmp_path}"]) == 0
    assert capsys.readouterr().out.strip() == str(root / "report.html")
    with pytest.raises(BadInput, match="Did you mean 'synthetic'"):
        main(["study=syntetic", f"results={tmp_path}"])
    with pytest.raises(BadInput, match="unknown argument"):
        main(["stud=synthetic"])
    assert cli.run(main, ["study=x", f"results={tmp_path / 'nowhere'}"]) == 2
    assert main(["--help"]) == 0
    with pytest.raises(BadInput, match="no study at"):
        write_report(tmp_path / "nowhere")
