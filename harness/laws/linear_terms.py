"""Where fits of laws that are sums of positive terms start: the terms' coefficients at given exponents are linear.  Own."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

_LEAST = 1e-4  # share of the response that a term starts with where least squares gives it none


def log_coefficients(log_terms: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Logarithms (k,) of the c >= 0 that minimise sum_i (sum_j c_j exp(log_terms_ij) / response_i - 1)^2.

    log_terms: (n, k). response: (n,), positive. Terms that get nothing start at 1e-4 of the response, so that a fit in
    their logarithm can still find them. Scale-free: multiplying a term or the response shifts the result alone.
    """
    relative = log_terms - np.log(response)[:, None]
    top = relative.max(axis=0)
    found, _ = nnls(np.exp(relative - top), np.ones(response.size))
    return np.log(np.maximum(found, _LEAST)) - top
