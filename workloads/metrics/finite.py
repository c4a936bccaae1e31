"""What a metric is worth where the model puts out no numbers."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp

from workloads.base import Array


def where_finite(scores: Mapping[str, Array]) -> dict[str, Array]:
    """What `evaluate` gives, NaN but for the loss where the loss is not finite: NaN are ranked, and decoded, as if they said
    something, and an area under the ROC curve of 1 may come of it.
    """
    finite = jnp.isfinite(scores["loss"])
    return {name: value if name == "loss" else jnp.where(finite, value, jnp.nan) for name, value in scores.items()}
