"""A user's file that imports others of its folder: they are part of it, go where it goes, and are in nobody's way."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness import algoperf
from harness.launchers.slurm.files import Kept
from harness.optimizers.own_files import own_files
from harness.optimizers.user import load_optimizer
from tests.trials import small_trial
from workloads.base import BadInput

FILES = {
    "mine.py": "import optax\nfrom parts import scales\nimport rates\n\n"
    "def make(learning_rate=rates.RATE):\n    return optax.sgd(learning_rate, scales.MOMENTUM)\n",
    "rates.py": "RATE = 0.25\n",
    "parts/__init__.py": "",
    "parts/scales.py": "from .deeper.numbers import MOMENTUM\n",
    "parts/deeper/numbers.py": "import math\nMOMENTUM = math.sqrt(0.25)\n",  # of a package without __init__.py
    "unused.py": "raise RuntimeError('nobody imports this')\n",
}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "mine.py"


def test_what_is_imported_is_found_without_running_it(mine: Path) -> None:
    names = [str(file.relative_to(mine.parent)) for file in own_files(mine)]
    assert names == ["mine.py", "parts/__init__.py", "parts/deeper/numbers.py", "parts/scales.py", "rates.py"]


def test_a_file_may_import_others_of_its_folder_from_anywhere(mine: Path) -> None:
    assert load_optimizer(str(mine))().learning_rate == 0.25
    assert not {"parts", "parts.scales", "parts.deeper", "rates"} & set(sys.modules)
    assert str(mine.parent) not in sys.path


def test_what_else_stands_in_its_folder_stays_imported(mine: Path) -> None:
    """A virtual environment may: only the files that the user's file is made of leave."""
    installed = mine.parent / ".venv"
    installed.mkdir()
    (installed / "a_library_of_this_test.py").write_text("SEEN = []\n")
    mine.write_text(
        f"import sys\nsys.path.append({str(installed)!r})\nimport a_library_of_this_test\n" + mine.read_text()
    )
    try:
        load_optimizer(str(mine))
        assert "a_library_of_this_test" in sys.modules
    finally:
        sys.path.remove(str(installed))
        sys.modules.pop("a_library_of_this_test", None)


def test_a_change_beside_it_makes_another_trial(mine: Path) -> None:
    first = load_optimizer(str(mine))
    (mine.parent / "unused.py").write_text("# changed")
    assert load_optimizer(str(mine)) is first
    (mine.parent / "rates.py").write_text("RATE = 0.5\n")
    second = load_optimizer(str(mine))
    assert second().learning_rate == 0.5
    ids = {replace(small_trial(), optimizer=made(learning_rate=0.1)).id for made in (first, second)}
    assert len(ids) == 2


def test_it_goes_to_a_cluster_with_them(mine: Path, tmp_path: Path) -> None:
    own = load_optimizer(str(mine))()
    (copy,) = Kept(tmp_path / "study", write=True).optimizers([replace(small_trial(), optimizer=own)]).values()
    mine.unlink()
    (mine.parent / "rates.py").unlink()
    again = load_optimizer(copy)()
    assert (again.source_sha256, again.learning_rate) == (own.source_sha256, 0.25)


def test_they_may_not_see_the_data_either(mine: Path) -> None:
    (mine.parent / "rates.py").write_text("from workloads import ctr\nRATE = 0.1\n")
    with pytest.raises(BadInput, match=r"rates.py imports workloads.ctr: a submission may not see the data"):
        load_optimizer(str(mine))
    mine.write_text("import rates\n" + (Path(__file__).parents[1] / "algoperf" / "adamw.py").read_text())
    with pytest.raises(BadInput, match=r"rates.py imports workloads.ctr: a submission may not see the data"):
        algoperf.load(mine)


def test_a_broken_file_beside_it_is_named(mine: Path) -> None:
    (mine.parent / "rates.py").write_text("RATE =\n")
    with pytest.raises(BadInput, match=r"rates.py cannot be imported: SyntaxError"):
        load_optimizer(str(mine))
