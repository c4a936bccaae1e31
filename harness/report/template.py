"""The shell of every page: one HTML file with its style and script inside, and a policy that allows no others."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from harness import __version__
from harness.report import text
from harness.report.palette import css

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(name: str, context: dict[str, Any]) -> str:
    """The page of template `name`, a file beside this one; every value of `context` that is not Markup is escaped."""
    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        finalize=text.finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, style = _asset("report.js"), _asset("report.css")
    shell = {
        "version": __version__,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "script": Markup(script),
        "style": Markup(style.replace("/*light*/", css(0)).replace("/*dark*/", css(1))),
        "policy": f"{POLICY}; script-src '{_digest(script)}'",
    }
    return environment.get_template(name).render(shell | context)


def _asset(name: str) -> str:
    return (resources.files("harness.report") / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    """The script's hash for the content security policy: no other script runs on the page."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
