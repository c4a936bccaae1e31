"""Reading W&B's offline run files back: LevelDB's log format, with a header, of protobuf records."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK, _HEADER, _FILE_HEADER = 32768, 7, 7
_WHOLE, _LAST = 1, 4


@dataclass
class OfflineRun:
    """metrics: name -> its step metric. artifacts: name -> files."""

    id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, list[str]] = field(default_factory=dict)
    exit_code: int | None = None


def read_run(path: Path) -> OfflineRun:
    """What a .wandb file says."""
    run = OfflineRun()
    for record in _records(path.read_bytes()):
        match record.WhichOneof("record_type"):
            case "run":
                run.id, run.name = record.run.run_id, record.run.display_name
                run.group, run.job_type, run.tags = record.run.run_group, record.run.job_type, list(record.run.tags)
                run.config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
            case "metric":
                run.metrics[record.metric.name] = record.metric.step_metric
            case "history":
                run.history.append({_key(item): json.loads(item.value_json) for item in record.history.item})
            case "summary":
                run.summary |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
            case "artifact":
                run.artifacts[record.artifact.name] = [item.path for item in record.artifact.manifest.contents]
            case "exit":
                run.exit_code = record.exit.exit_code
    return run


def offline_runs(folder: Path) -> dict[str, OfflineRun]:
    """Id -> run, of all offline folders below folder/wandb; each id once."""
    runs = [read_run(path) for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]
    found = {run.id: run for run in runs}
    assert len(found) == len(runs), "a run was written twice"
    return found


def _key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def _records(data: bytes) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2

    assert data[:4] == b":W&B"
    position, content = _FILE_HEADER, b""
    while position + _HEADER <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + _HEADER])
        position += _HEADER
        content += data[position : position + length]
        position += length
        if kind in (_WHOLE, _LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            content = b""
            yield record
