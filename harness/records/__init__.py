"""The results store: what was trained, in local files that many processes may write at once.

`Store` keeps the trials and curves of one study, `files` writes every other file atomically.
"""

from harness.records.files import atomic_path, atomic_write_bytes, atomic_write_text, read_json, write_json
from harness.records.schema import FINISHED, STATUSES
from harness.records.store import Store, studies

__all__ = [
    "FINISHED",
    "STATUSES",
    "Store",
    "atomic_path",
    "atomic_write_bytes",
    "atomic_write_text",
    "read_json",
    "studies",
    "write_json",
]
