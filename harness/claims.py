"""Claims: machine-checked statements about a study, each with a verdict and its evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.laws import PredictionVerdict
from harness.transfer import Transfer
from workloads.base import BadInput

_DRIFT = {"zero": "transfers", "nonzero": "does_not_transfer"}


def check_claims(
    claims: Sequence[Mapping[str, Any]],
    found: Mapping[str, Transfer],
    predictions: Mapping[str, PredictionVerdict],
) -> list[dict[str, Any]]:
    """[{claim, verdict, evidence}] in the order of `claims`; verdict is supported, refuted or undecided."""
    return [{"claim": dict(claim), **_check(dict(claim), found, predictions)} for claim in claims]


def validate(claims: Sequence[Mapping[str, Any]]) -> None:
    """Raise BadInput on a claim that can't be checked, before anything is trained."""
    for claim in claims:
        kind = next((key for key in ("drift", "prediction") if key in claim), None)
        expected = {"drift": tuple(_DRIFT), "prediction": ("hit",)}.get(kind or "", ())
        if kind is None or claim.get("expect") not in expected:
            raise BadInput(
                f"claim {dict(claim)} is not known; write {{drift: {{parametrization: NAME}}, expect: zero|nonzero}} or "
                f"{{prediction: {{parametrization: NAME}}, expect: hit}}"
            )


def _check(
    claim: dict[str, Any], found: Mapping[str, Transfer], predictions: Mapping[str, PredictionVerdict]
) -> dict[str, Any]:
    kind = "drift" if "drift" in claim else "prediction"
    name = "/".join(str(value) for value in dict(claim[kind] or {}).values()) or "all"
    known: Mapping[str, Any] = found if kind == "drift" else predictions
    if name not in known:
        return {
            "verdict": "undecided",
            "evidence": {"reason": f"there is no series '{name}'; there are: {', '.join(known)}"},
        }
    if kind == "prediction":
        verdict = predictions[name]
        return {"verdict": verdict.verdict, "evidence": {"reason": verdict.reason, **verdict.evidence}}
    return _drift(found[name], _DRIFT[claim["expect"]])


def _drift(transfer: Transfer, expected: str) -> dict[str, Any]:
    entry = transfer.to_json()
    evidence = {key: entry[key] for key in ("drift_exponent", "drift_ci90", "drift_ci95", "verdict", "reason")}
    if entry["verdict"] == "undecided":
        return {"verdict": "undecided", "evidence": evidence}
    return {"verdict": "supported" if entry["verdict"] == expected else "refuted", "evidence": evidence}
