"""README says what holds."""

from __future__ import annotations

import re

from harness.laws import LAWS
from harness.laws.procedures import PROCEDURES
from tests.bench import readme


def test_the_tables_of_measures_are_those_of_the_committed_benchmarks():
    text = readme.README.read_text()
    assert readme.written(text) == text
    assert text.count("<!-- bench: ") == len(readme.FILES)


def test_the_counts_of_laws_and_procedures_are_true():
    laws, procedures = re.search(r"(\d+) laws, (\d+) procedures", readme.README.read_text()).groups()
    assert (int(laws), int(procedures)) == (len(LAWS), len(PROCEDURES))
