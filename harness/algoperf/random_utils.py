"""What submissions import as `algoperf.random_utils`: there it stands before JAX's or numpy's keys; here they are JAX's."""

from jax.random import PRNGKey, fold_in, split

__all__ = ["PRNGKey", "fold_in", "split"]
