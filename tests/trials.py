"""Small trials that tests share, so that they share compiled programs, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from harness.budget import Budget
from harness.config import with_values
from harness.engine.devices import Devices, local_devices
from harness.engine.runner import Observer, Runner, Settings, Summary
from harness.optimizers import OPTIMIZERS
from harness.parametrizations import PARAMETRIZATIONS
from harness.records.store import Store
from harness.schedules import SCHEDULES
from harness.trial import Trial
from workloads.language_model import LanguageModel

LM = LanguageModel(
    corpus="zipf_markov:vocab_size=16", width=8, depth=1, heads=2, context=8, batch_size=4, evaluation_sequences=8
)


def small_trial(**values: Any) -> Trial:
    """A language model of a few hundred parameters, 12 steps, 3 evaluations; dotted keys change it."""
    trial = Trial(
        workload=LM,
        optimizer=OPTIMIZERS["adamw"](learning_rate=1e-2),
        schedule=SCHEDULES["cosine"](),
        parametrization=PARAMETRIZATIONS["sp"](base_width=8),
        budget=Budget(steps=12),
        evaluations=3,
    )
    return with_values(trial, {key.replace("__", "."): value for key, value in values.items()})


def run(
    trials: Sequence[Trial],
    store: Store,
    devices: Devices | None = None,
    observers: Sequence[Observer] = (),
    **settings: Any,
) -> Summary:
    """Train and record, on all test devices unless told otherwise."""
    return Runner(store, devices or local_devices(), Settings(**settings), observers).train(trials)


def with_seed(trial: Trial, seed: int) -> Trial:
    return replace(trial, seed=seed)
