"""A stand-in for W&B's server on 127.0.0.1: enough of its API for uploads and their confirmation, and faults on request.

It keeps what it is sent as the real one does: a run's history is a list of lines, to which a client adds from an offset.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "team"


@dataclass
class StoredRun:
    """name: its id. lines: of history, as JSON. starts: how often it was started from nothing."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    lines: dict[int, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    starts: int = 0

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(self.lines[i]) for i in sorted(self.lines)]


Fault = Callable[[str, dict[str, Any]], int | None]
"""(kind of request, its variables) -> an HTTP status to answer with instead, or None.

Kinds: GraphQL operations, and file_stream.
"""


class StandIn:
    """requests: (kind, run) in order of arrival. secrets: what arrived as a password."""

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.requests: list[tuple[str, str]] = []
        self.secrets: set[str] = set()
        self.fault: Fault = lambda kind, variables: None
        self.delay = 0.0
        self._lock = threading.Lock()
        self.url = ""

    def count(self, kind: str) -> int:
        return sum(asked == kind for asked, _ in self.requests)

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        """(HTTP status, JSON)."""
        if self.delay:
            time.sleep(self.delay)
        if path.startswith("/graphql"):
            question = json.loads(body)
            kind, variables = question.get("operationName") or _operation(question["query"]), question.get("variables")
            return self._respond(kind, variables or {}, lambda v: {"data": self._graphql(kind, v)})
        if path.endswith("/file_stream"):
            run = path.split("/")[-2]
            return self._respond("file_stream", {"name": run, **json.loads(body)}, self._stream)
        return 200, {}

    def _respond(self, kind: str, variables: dict[str, Any], do: Callable[[dict[str, Any]], Any]) -> tuple[int, Any]:
        with self._lock:
            self.requests.append((kind, str(variables.get("name"))))
            status = self.fault(kind, variables)
            return (status, {"errors": [{"message": "stand-in fault"}]}) if status else (200, do(variables))

    def _stream(self, sent: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[sent["name"]]
        for name, part in (sent.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                run.lines.update(enumerate(part["content"], start=part["offset"]))
            if name == "wandb-summary.json":
                run.summary = json.loads(part["content"][-1])
        if sent.get("complete"):
            run.facts["exitcode"] = sent["exitcode"]
        return {}

    def _graphql(self, kind: str, v: dict[str, Any]) -> dict[str, Any]:
        match kind:
            case "Viewer" | "GetDefaultEntity":
                viewer = {"id": "1", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}"}
                return {"viewer": viewer | {"teams": {"edges": []}}}
            case "RunResumeStatus":
                return {"model": self._project(v) | {"bucket": self._resumable(v["name"])}}
            case "UpsertBucket":
                return {"upsertBucket": {"bucket": self._upsert(v), "inserted": True}}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{self.url}/put/{name}"} for name in v["files"]]
                return {"createRunFiles": {"runID": v["run"], "uploadHeaders": [], "files": files}}
            case "Runs":
                wanted = json.loads(v["filters"])["name"]["$in"]
                found = [self._node(self.runs[name]) for name in wanted if name in self.runs]
                edges = [{"node": node, "cursor": node["name"]} for node in found]
                page = {"endCursor": None, "hasNextPage": False}
                runs = {"runCount": len(found), "readOnly": False, "runs": {"edges": edges, "pageInfo": page}}
                return {"project": {"internalId": "1", **runs}}
            case _:
                return {}

    def _project(self, v: dict[str, Any]) -> dict[str, Any]:
        return {"id": "p", "name": v.get("project"), "entity": {"id": "e", "name": ENTITY}}

    def _upsert(self, v: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(v["name"], StoredRun(v["name"]))
        run.config |= {key: entry["value"] for key, entry in json.loads(v["config"] or "{}").items()}
        run.facts |= {key: value for key, value in v.items() if value is not None and key != "config"}
        run.starts += v.get("groupName") is not None
        return {
            "id": run.name,
            "name": run.name,
            "displayName": run.facts.get("displayName"),
            "description": "",
            "config": "{}",
            "sweepName": None,
            "project": self._project(v),
            "historyLineCount": len(run.lines),
        }

    def _resumable(self, name: str) -> dict[str, Any] | None:
        run = self.runs.get(name)
        if run is None:
            return None
        tail = [run.lines[i] for i in sorted(run.lines)][-1:]
        return {
            "id": name,
            "name": name,
            "summaryMetrics": json.dumps(run.summary),
            "displayName": run.facts.get("displayName"),
            "logLineCount": 0,
            "historyLineCount": len(run.lines),
            "eventsLineCount": 0,
            "historyTail": json.dumps(tail),
            "eventsTail": "[]",
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "tags": run.facts.get("tags"),
            "notes": None,
            "wandbConfig": json.dumps({"t": {}}),
        }

    def _node(self, run: StoredRun) -> dict[str, Any]:
        fixed = dict.fromkeys(("sweepName", "commit", "description", "notes", "systemMetrics", "heartbeatAt"))
        return fixed | {
            "id": run.name,
            "projectId": "1",
            "name": run.name,
            "displayName": run.facts.get("displayName"),
            "tags": run.facts.get("tags"),
            "state": "finished",
            "config": "{}",
            "group": run.facts.get("groupName"),
            "jobType": run.facts.get("jobType"),
            "readOnly": False,
            "createdAt": "2026-01-01T00:00:00Z",
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(run.lines),
            "user": {"name": ENTITY, "username": ENTITY},
            "historyKeys": None,
        }


def _operation(query: str) -> str:
    words = query.replace("#graphql", " ").split()
    return words[1].partition("(")[0] if len(words) > 1 else ""


@contextmanager
def standin() -> Iterator[StandIn]:
    """A running stand-in at `url`."""
    state = StandIn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state.secrets.add(self.headers.get("Authorization") or "")
            status, content = state.answer(self.path, body)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _answer

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that was killed

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
