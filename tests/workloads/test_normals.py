"""Standard normals: the right distribution, all entries independent, and no entry depends on how many columns follow."""

import jax
import numpy as np
import pytest
from scipy.stats import kstest

from workloads.data.normals import standard_normals

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def normals():
    return np.asarray(jax.jit(standard_normals, static_argnums=(1, 2))(KEY, 200, 1000), np.float64)


@pytest.mark.parametrize("half", [slice(None, 100), slice(100, None)], ids=["cosine", "sine"])
def test_every_side_is_normal(normals, half):
    values = normals[half].ravel()
    assert kstest(values, "norm").pvalue > 1e-3
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(np.mean(values**power) - moment) < 4 * (variance / values.size) ** 0.5


def test_pairs_are_independent(normals):
    """Of what shares a random word, also the squares are uncorrelated."""
    cosine, sine = normals[:100].ravel(), normals[100:].ravel()
    limit = 4 / cosine.size**0.5
    assert abs(np.corrcoef(cosine, sine)[0, 1]) < limit
    assert abs(np.corrcoef(cosine**2, sine**2)[0, 1]) < limit
    assert abs(np.corrcoef(normals[:, :-1].ravel(), normals[:, 1:].ravel())[0, 1]) < limit
    assert abs(np.corrcoef(normals[:-1].ravel(), normals[1:].ravel())[0, 1]) < limit


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 3), (16, 64)])
def test_columns_do_not_depend_on_how_many_follow(rows, columns):
    draw = jax.jit(standard_normals, static_argnums=(1, 2))
    few, more = draw(KEY, rows, columns), draw(KEY, rows, columns + 7)
    assert few.shape == (rows, columns)
    assert few.dtype == np.float32
    np.testing.assert_array_equal(few, more[:, :columns])
