"""A headless Chromium for pages on disk, and what a page looks like from the inside."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (.ci/run installs it)")

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--v=0",
]
DARK, LIGHT = 0, 1
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
_PROBE = """<script>addEventListener("load", () => {
  const rgb = (element, property) => getComputedStyle(element)[property];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const figure = document.querySelector("figure");
  const heads = all("#rows th button");
  const column = heads.findIndex((head) => head.textContent === "final loss");
  const values = () => all("#rows tbody tr").map((row) => row.cells[column].textContent);
  const sorted = [];
  if (column >= 0) for (let i = 0; i < 2; i++) { heads[column].click(); sorted.push(values()); }
  const result = {
    page: rgb(document.body, "backgroundColor"), ink: rgb(document.body, "color"),
    paper: figure && rgb(figure, "backgroundColor"),
    labels: [...new Set(all("svg text").map((text) => rgb(text, "fill")))],
    strokes: [...new Set(all("svg path, svg use").map((path) => rgb(path, "stroke")))],
    overflow: document.documentElement.scrollWidth - innerWidth,
    images: document.images.length, scripts: document.scripts.length, title: document.title, sorted,
    handlers: all("*").filter((e) => [...e.attributes].some((a) => a.name.startsWith("on"))).length,
  };
  document.documentElement.dataset.probe = JSON.stringify(result);
});</script>"""


def chromium(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Load a page; the DOM is in stdout, the console in stderr."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory() as profile:
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


def console(finished: subprocess.CompletedProcess[str]) -> list[str]:
    """What the page wrote to the console, errors of the page and of the security policy included."""
    return [line for line in finished.stderr.splitlines() if "CONSOLE" in line]


def probe(page: Path, scheme: int, width: int = 1280) -> dict[str, Any]:
    """Facts about the rendered page, in a copy without its security policy (which forbids the probe, as it should)."""
    copy = page.with_name(f"probe-{scheme}-{width}.html")
    html, removed = _POLICY.subn("", page.read_text(encoding="utf-8"))
    assert removed == 1
    copy.write_text(html.replace("</body>", f"{_PROBE}</body>"), encoding="utf-8")
    flags = (f"--blink-settings=preferredColorScheme={scheme}", f"--window-size={width},2000", "--dump-dom")
    finished = chromium(copy, *flags)
    assert console(finished) == []
    found = re.search(r'data-probe="([^"]*)"', finished.stdout)
    assert found, finished.stderr[-2000:]
    result: dict[str, Any] = json.loads(found[1].replace("&quot;", '"').replace("&amp;", "&"))
    return result


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2) of "rgb(r, g, b)"."""
    channels = [float(part) / 255 for part in re.findall(r"[\d.]+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    """Contrast ratio (WCAG 2.2), 1 to 21."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)
