"""The page in headless Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.browser import DARK, LIGHT, chromium, console, contrast, luminance, needs_chromium, probe

pytestmark = needs_chromium


def test_no_console_errors_under_the_security_policy(study: Path) -> None:
    finished = chromium(study / "report.html", "--dump-dom")
    assert console(finished) == []
    assert "synthetic · windtunnel" in finished.stdout


def test_the_security_policy_is_in_force(study: Path) -> None:
    """Another inline script does not run, and says so on the console (so the console is being read)."""
    page = (study / "report.html").read_text(encoding="utf-8")
    copy = study / "foreign.html"
    copy.write_text(page.replace("</body>", "<script>document.title = 'owned'</script></body>"), encoding="utf-8")
    finished = chromium(copy, "--dump-dom")
    assert "<title>owned" not in finished.stdout
    assert any("Content Security Policy" in line for line in console(finished))


@pytest.mark.parametrize("scheme", [DARK, LIGHT])
@pytest.mark.parametrize("width", [400, 1280])
def test_both_colour_schemes_are_readable_at_both_widths(study: Path, scheme: int, width: int) -> None:
    found = probe(study / "report.html", scheme, width)
    assert (luminance(found["page"]) > 0.5) == (scheme == LIGHT)
    assert contrast(found["ink"], found["page"]) > 10
    assert len(found["labels"]) > 8
    for colour in found["labels"]:
        assert contrast(colour, found["paper"]) > 3, colour
    assert found["overflow"] <= 0
    losses = [[float(text) for text in column if text != "–"] for column in found["sorted"]]
    assert losses == [sorted(losses[0]), sorted(losses[0], reverse=True)]
    assert len(losses[0]) > 100
