"""Linear regression on a power-law spectrum: the family whose scaling exponents are known exactly.

The input is an endless vector of independent Gaussian features x_i = sqrt(lambda_i) z_i with eigenvalues
lambda_i = i**-alpha, and the target is y = sum_i c_i z_i + sigma eps. The model is a linear readout of the
first N = `width` features. With

    c_1**2 = 1,    c_i**2 = (i - 1)**-b - i**-b  (about b i**-(1 + b)),

the sum of c_i**2 over i > N is V_N = N**-b without remainder, so the lowest population risk at width N is exactly
sigma**2 + N**-b. Online SGD learns feature i after about i**alpha steps, which leaves steps**(-b / alpha)
(Bordelon, Atanasov & Pehlevan 2024, "A dynamical model of neural scaling laws", with their a = 1 + b and
b = alpha; the same setting is in Maloney, Roberts & Sully 2022 and Lin et al. 2024). The closed coefficients,
the finite-batch recursion and the sampling are own work.

A batch must be the same at every width and yet not cost more than the width needs. So the signal is drawn first, and the
features one after the other given what is left of it: with T_0 the signal, V_0 = 2 its variance and T_i = T_{i-1} - c_i z_i,

    z_i = c_i T_{i-1} / V_{i-1} + sqrt(V_i / V_{i-1}) g_i,    T_i / V_i = T_{i-1} / V_{i-1} - c_i g_i / sqrt(V_{i-1} V_i),

where the g_i are independent and standard normal: the Gaussian conditional, so z has exactly the distribution above. z is
linear in (T_0, g); a batch holds these, and the readout is moved over to them, which costs O(N) a step and not O(B N).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from workloads.base import Array, BadInput, Batch, Data, Metric, Params, Workload
from workloads.data.normals import standard_normals

_FRESH = sys.maxsize  # every step draws new examples: an epoch never ends
_SIGNAL_STD = math.sqrt(2.0)  # of T_0: c_1**2 = 1, and the others sum to 1


@dataclass(frozen=True)
class Regression(Workload):
    """width: number of features the readout sees (N).

    spectrum_exponent: alpha > 0, of the input's eigenvalues. target_exponent: b > 0, of the risk in width.
    noise_std: sigma, of the target's noise. The readout starts at zero, where the risk is 2 + sigma**2.
    attention_scale and residual_scale have no meaning here.
    """

    name: ClassVar[str] = "regression"
    metric: ClassVar[Metric] = Metric("excess_risk", "minimize", "squared target units")

    depth: int = 1
    spectrum_exponent: float = 1.5
    target_exponent: float = 0.5
    noise_std: float = 0.2

    def validate(self) -> None:
        super().validate()
        if self.depth != 1:
            raise BadInput(f"workload.depth={self.depth}: regression is one linear layer, use workload.depth=1")
        for field in ("spectrum_exponent", "target_exponent"):
            if not 0.0 < getattr(self, field) < float("inf"):
                raise BadInput(f"workload.{field}={getattr(self, field)} must be a positive finite number")
        if not 0.0 <= self.noise_std < float("inf"):
            raise BadInput(f"workload.noise_std={self.noise_std} must be a finite number of at least 0")

    def load(self) -> Data:
        info = {"source": "drawn on the device, fresh at every step"}
        return Data(arrays={}, info=info, examples=_FRESH)

    def init(self, key: Array) -> Params:
        return {"readout": {"kernel": jnp.zeros((self.width, 1))}}

    def batch(self, data: Mapping[str, Array], key: Array, step: Array) -> Batch:
        """`target` y and `signal` T_0 of shape (batch,), `innovations` g_1, g_2 ... of shape (batch, width)."""
        target_key, feature_key = jax.random.split(jax.random.fold_in(key, step))
        signal, noise = standard_normals(target_key, 2, self.batch_size)
        signal = _SIGNAL_STD * signal
        innovations = standard_normals(feature_key, self.batch_size, self.width)
        return {"target": signal + self.noise_std * noise, "signal": signal, "innovations": innovations}

    def loss(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        """Mean squared error (without the factor 1/2)."""
        readout = self.output_scale * params["readout"]["kernel"][:, 0] * jnp.sqrt(self._eigenvalues())
        on_signal, on_innovations = self._moved_over(readout)
        prediction = on_signal * batch["signal"] + batch["innovations"] @ on_innovations
        return jnp.mean(jnp.square(prediction - batch["target"])), {}

    def evaluate(self, params: Params, data: Mapping[str, Array], split: str) -> dict[str, Array]:
        """The exact population risk, from the spectrum: there is no held-out sample, all splits agree.

        `loss` includes the noise variance, `excess_risk` does not.
        """
        learned = self.output_scale * params["readout"]["kernel"][:, 0] * jnp.sqrt(self._eigenvalues())
        error = jnp.sum(jnp.square(learned - self._coefficients()))
        excess = error + jnp.asarray(float(self.width)) ** -self.target_exponent
        return {"loss": excess + jnp.square(jnp.asarray(self.noise_std)), "excess_risk": excess}

    def matmul_flops(self) -> float:
        """Forward 2 B N and the gradient of the readout 2 B N; the inputs need no gradient."""
        return 4.0 * self.batch_size * self.width

    @property
    def irreducible_loss(self) -> float:
        """The risk at infinite width and data: sigma**2."""
        return self.noise_std**2

    def optimal_loss(self) -> float:
        """The lowest risk that this width can reach: sigma**2 + N**-b, exactly."""
        return self.irreducible_loss + self.width**-self.target_exponent

    def exponent_width(self) -> float:
        """b in optimal_loss - irreducible_loss = N**-b; a - 1 in Bordelon et al. 2024."""
        return self.target_exponent

    def exponent_steps(self) -> float:
        """b / alpha in excess risk ~ steps**-(b / alpha), for SGD at a constant rate and large width.

        (a - 1) / b in Bordelon et al. 2024. Holds while the noise of the gradient is small beside that risk,
        a condition that `expected_loss` does not have.
        """
        return self.target_exponent / self.spectrum_exponent

    def expected_loss(self, steps: int, learning_rate: float) -> np.ndarray:
        """(steps + 1,) float64: the risk after 0, 1, ... steps of plain SGD, averaged over batches: exact.

        For Gaussian features the second moments of the weights close (Isserlis' theorem). At output_scale 1,
        with eta = 2 learning_rate (the loss has no factor 1/2), u_i = lambda_i E(w_i - w*_i)**2 and the rest
        s = N**-b + sigma**2, u_i becomes
        u_i ((1 - eta lambda_i)**2 + eta**2 lambda_i**2 / B) + eta**2 lambda_i**2 (sum_j u_j + s) / B.
        """
        index = np.arange(1, self.width + 1, dtype=np.float64)
        rate = 2.0 * learning_rate * index**-self.spectrum_exponent
        before = np.append(np.inf, index[:-1] ** -self.target_exponent)
        error = np.where(index == 1, 1.0, before - index**-self.target_exponent)
        keep, spread = (1.0 - rate) ** 2 + rate**2 / self.batch_size, rate**2 / self.batch_size
        risk = np.empty(steps + 1)
        for step in range(steps + 1):
            risk[step] = error.sum() + self.optimal_loss()
            error = error * keep + spread * risk[step]
        return risk

    def _eigenvalues(self) -> Array:
        """lambda_i, shape (width,)."""
        return self._indices() ** -self.spectrum_exponent

    def _coefficients(self) -> Array:
        """c_i, shape (width,): c_i**2 = V_{i-1} (1 - V_i / V_{i-1}), without cancellation."""
        return jnp.sqrt(-self._remaining() * jnp.expm1(self._log_shrinking()))

    def _remaining(self) -> Array:
        """V_{i-1}, the variance of what is left of the signal before feature i, shape (width,)."""
        index = self._indices()
        return jnp.where(index == 1.0, _SIGNAL_STD**2, jnp.maximum(index - 1.0, 1.0) ** -self.target_exponent)

    def _log_shrinking(self) -> Array:
        """log(V_i / V_{i-1}), shape (width,)."""
        index = self._indices()
        # i = 1 is replaced, and must not meet log(0) on the way
        later = self.target_exponent * jnp.log1p(-1.0 / jnp.maximum(index, 2.0))
        return jnp.where(index == 1.0, -math.log(_SIGNAL_STD**2), later)

    def _moved_over(self, readout: Array) -> tuple[Array, Array]:
        """Weights of z, shape (width,), -> weights of T_0, a scalar, and of g, (width,), that give the same sum."""
        left, shrink = self._remaining(), jnp.exp(0.5 * self._log_shrinking())
        coefficients = self._coefficients()
        along = coefficients * readout
        later = jax.lax.cumsum(along, reverse=True) - along
        return jnp.sum(along) / _SIGNAL_STD**2, shrink * readout - coefficients / (left * shrink) * later

    def _indices(self) -> Array:
        """1, 2, ... width."""
        return jnp.arange(1, self.width + 1, dtype=jnp.float32)
