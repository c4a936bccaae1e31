"""README says what holds."""

from __future__ import annotations

import re

from harness.laws import LAWS
from harness.laws.procedures import PROCEDURES
from harness.records.files import read_json
from tests.bench import readme


def test_the_tables_of_measures_are_those_of_the_committed_benchmarks():
    text = readme.README.read_text()
    assert readme.written(text) == text
    assert text.count("<!-- bench: ") == len(readme.FILES)
    for table in ("claims", "targets", "competitions", "judgements"):
        assert text.count(f"<!-- {table} -->") == 1


def test_the_simulated_studies_are_those_that_are_committed():
    text = readme.SLURM.read_text()
    assert readme.written(text) == text
    assert text.count("<!-- simulations -->") == text.count("<!-- bench: bench_scale.json -->") == 1


def test_the_counts_of_laws_and_procedures_are_true():
    laws, procedures = re.search(r"(\d+) laws, (\d+) procedures", readme.README.read_text()).groups()
    assert (int(laws), int(procedures)) == (len(LAWS), len(PROCEDURES))


def test_what_it_says_of_learning_rates_over_width_is_what_the_committed_study_found():
    text = " ".join(readme.README.read_text().split())
    found = read_json(readme.README.parent / "results" / "reference" / "lr_width" / "transfer.json")
    sp, mup = found["sp"], found["mup"]
    assert (sp["verdict"], mup["verdict"]) == ("does_not_transfer", "transfers")
    low, high = mup["drift_ci90"]
    cheap, dear = mup["base_lr_regret_ci95"][-1]
    for words in (
        f"width^{sp['drift_exponent']:.2f}",
        f"costs {100 * sp['base_lr_regret'][-1]:.0f}% of the loss",
        f"drift is {mup['drift_exponent']:.2f}, 90% [{low:.2f}, {high:+.2f}]",
        f"costs {100 * mup['base_lr_regret'][-1]:.2f}%, 95% [{100 * cheap:.2f}%, {100 * dear:+.2f}%]",
    ):
        assert words in text, words
