"""Is any of many shapes in the data? The largest F over them, against its simulated distribution without any."""

from __future__ import annotations

import numpy as np

DRAWS = 4000  # simulated tables behind a p-value


def sup_f(null: np.ndarray, shapes: np.ndarray, y: np.ndarray, seed: int) -> tuple[float, int]:
    """(p-value, index) of the shape that explains most of y (n,) beyond the columns of null (n, k); shapes (m, n).

    Where y is null @ coefficients + independent normal errors of one scale, the largest F depends on neither coefficients
    nor scale, so it is simulated (the unidentified shape makes the F tables wrong: Davies 1987, Andrews 1993).
    """
    apart = np.eye(y.size) - null @ np.linalg.pinv(null)
    basis = shapes @ apart
    length = np.linalg.norm(basis, axis=1, keepdims=True)
    kept = np.flatnonzero(length[:, 0] > 1e-9 * np.linalg.norm(shapes, axis=1))
    basis = basis[kept] / length[kept]

    def largest(tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        residual = tables @ apart
        gain = (residual @ basis.T) ** 2
        ratio = gain / np.maximum(np.sum(residual**2, axis=1, keepdims=True) - gain, 1e-300)
        return ratio.max(axis=1), ratio.argmax(axis=1)

    seen, at = largest(y[None])
    simulated, _ = largest(np.random.default_rng([seed, 3]).normal(size=(DRAWS, y.size)))
    return float((1 + np.sum(simulated >= seen)) / (1 + DRAWS)), int(kept[at[0]])
