"""Claims: machine-checked statements about a study, each with a verdict and its evidence."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis import series_name
from harness.checks import CHECKS, Finding
from harness.laws import PredictionVerdict
from harness.registry import nearest
from harness.transfer import Transfer
from workloads.base import BadInput

_DRIFT = {"zero": "transfers", "nonzero": "does_not_transfer"}
_BELOW = re.compile(r"below (\d+(?:\.\d+)?)\s*%")
_ABOVE = re.compile(r"above (\S+)")
_Verdict = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Findings:
    """What a study found, by series: transfers, predictions, and the checks' findings by check."""

    transfers: Mapping[str, Transfer]
    predictions: Mapping[str, PredictionVerdict]
    checks: Mapping[str, Finding]


def check_claims(claims: Sequence[Mapping[str, Any]], found: Findings) -> list[dict[str, Any]]:
    """[{claim, verdict, evidence}] in the order of `claims`; verdict is supported, refuted or undecided."""
    checked = []
    for claim in claims:
        verdict, evidence = _check(dict(claim), found)
        checked.append({"claim": dict(claim), "verdict": verdict, "evidence": evidence})
    return checked


def validate(claims: Sequence[Mapping[str, Any]], checks: Sequence[str] = ()) -> None:
    """Raise BadInput on a claim that can't be checked, before anything is trained. checks: those that the study asks for."""
    for claim in claims:
        kind = _kind(claim)
        expected = claim.get("expect")
        if kind is not None and kind in CHECKS and kind not in checks:
            raise BadInput(f"claim {dict(claim)} needs the analysis {{check: {kind}}}; add it to study.analyses")
        if kind is None or not _expectable(kind, str(expected)):
            raise BadInput(
                f"claim {dict(claim)} is not known; write {{drift: {{parametrization: NAME}}, expect: zero|nonzero}}; "
                "{prediction: {...}, expect: hit}; {regret: {...}, expect: below 0.5%}; {regret: {...}, expect: above SERIES}; "
                + "; ".join(f"{{{name}: {{...}}, expect: {'|'.join(CHECKS[name].words)}}}" for name in CHECKS)
            )


def _kind(claim: Mapping[str, Any]) -> str | None:
    return next((key for key in ("drift", "prediction", "regret", *CHECKS) if key in claim), None)


def _expectable(kind: str, expected: str) -> bool:
    match kind:
        case "regret":
            return bool(_BELOW.fullmatch(expected) or _ABOVE.fullmatch(expected))
        case "drift":
            return expected in _DRIFT
        case "prediction":
            return expected == "hit"
    return expected in CHECKS[kind].words


def _check(claim: dict[str, Any], found: Findings) -> _Verdict:
    kind = _kind(claim)
    assert kind is not None
    name = series_name(dict(claim[kind] or {}))
    if kind in CHECKS:
        return _of_check(found.checks.get(kind), name, claim["expect"])
    known: Mapping[str, Any] = found.predictions if kind == "prediction" else found.transfers
    if name not in known:
        return "undecided", {"reason": f"there is no series '{name}'; there are: {', '.join(known)}"}
    if kind == "prediction":
        verdict = found.predictions[name]
        return verdict.verdict, {"reason": verdict.reason, **verdict.evidence}
    if kind == "regret":
        return _regret(name, str(claim["expect"]), found.transfers)
    return _drift(found.transfers[name], _DRIFT[claim["expect"]])


def _of_check(finding: Finding | None, name: str, expected: str) -> _Verdict:
    if finding is None:
        return "undecided", {"reason": "The check has not been run."}
    if name not in finding.verdicts:
        if list(finding.verdicts) == ["all"]:  # it could not be run, and says why
            return "undecided", {"reason": finding.verdicts["all"][1]}
        return "undecided", {"reason": f"There is no series '{name}'. {nearest(name, finding.verdicts)}"}
    word, reason = finding.verdicts[name]
    if word == "undecided":
        return "undecided", {"reason": reason, "found": word}
    return "supported" if word == expected else "refuted", {"reason": reason, "found": word}


def _drift(transfer: Transfer, expected: str) -> _Verdict:
    entry = transfer.to_json()
    evidence = {key: entry[key] for key in ("drift_exponent", "drift_ci90", "drift_ci95", "verdict", "reason")}
    if entry["verdict"] == "undecided":
        return "undecided", evidence
    return "supported" if entry["verdict"] == expected else "refuted", evidence


def _regret(name: str, expected: str, transfers: Mapping[str, Transfer]) -> _Verdict:
    """What the base scale's learning rate costs at the largest scale, as a share of the loss.

    below P%: supported if the upper 95% limit is below, refuted if the lower one is above. above SERIES: its difference to
    another series' regret; supported if that exceeds 0 by its 95% interval, refuted if it lies below 0 by as much.
    """
    value, half = _at_largest(transfers[name])
    below = _BELOW.fullmatch(expected)
    if below:
        limit = float(below[1]) / 100
        shown = (
            f"{_percent(value)}, 95% [{_percent(value - half)}, {_percent(value + half)}], against {_percent(limit)}"
        )
        low, high = value - half, value + half
        evidence = {"reason": f"The base learning rate costs {shown}.", "regret": value, "ci95": [low, high]}
        if not math.isfinite(value + half):
            return ("refuted", evidence) if value == math.inf else ("undecided", evidence)
        return "supported" if high < limit else "refuted" if low > limit else "undecided", evidence
    other = str(_ABOVE.fullmatch(expected)[1])  # type: ignore[index]
    if other not in transfers:
        return "undecided", {"reason": f"There is no series '{other}'. {nearest(other, transfers)}"}
    there, there_half = _at_largest(transfers[other])
    difference, both = value - there, math.hypot(half, there_half)
    shown = f"{_percent(value)} against {_percent(there)} of {other}, difference 95% +- {_percent(both)}"
    evidence = {"reason": f"The base learning rate costs {shown}.", "difference": difference, "half_width": both}
    if value == math.inf and math.isfinite(there):
        return "supported", evidence
    if not math.isfinite(difference + both):
        return "undecided", evidence
    return "supported" if difference > both else "refuted" if difference < -both else "undecided", evidence


def _at_largest(transfer: Transfer) -> tuple[float, float]:
    """(regret, half-width of its 95% interval) at the largest scale."""
    low, high = transfer.regret.ci95[-1]
    return float(transfer.regret.value[-1]), float(high - low) / 2


def _percent(value: float) -> str:
    return f"{100 * value:.2f}%"
