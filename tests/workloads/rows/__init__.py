"""The families' test matrix: one module, with one ROW, a family. A row buys every test of test_families.py."""

from __future__ import annotations

import importlib
import pkgutil

from tests.workloads.rows.row import Row

ROWS: dict[str, Row] = {
    module.name: importlib.import_module(f"{__name__}.{module.name}").ROW
    for module in pkgutil.iter_modules(__path__)
    if module.name != "row"
}
