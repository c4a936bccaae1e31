"""What submissions import as `algoperf.jax_sharding_utils`: shardings over the one device that an unpacked run uses.

One device, as a packed trial has, and because a proxy's batch need not divide by the number of devices.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_AXIS = "batch"


def _mesh() -> Mesh:
    return Mesh(jax.local_devices()[:1], (_AXIS,))


def get_replicate_sharding() -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(_mesh(), PartitionSpec())


def get_batch_dim_sharding() -> NamedSharding:
    """The first axis is split over the devices."""
    return NamedSharding(_mesh(), PartitionSpec(_AXIS))


def replicate(tree: Any) -> Any:
    """The tree with its leaves replicated over the devices."""
    return jax.device_put(tree, get_replicate_sharding())


def shard_along_batch_dim(tree: Any) -> Any:
    """The tree with the first axis of its leaves split over the devices."""
    return jax.device_put(tree, get_batch_dim_sharding())


def display_shard_info(array: jax.Array) -> None:
    """Print which device holds which part."""
    for shard in array.addressable_shards:
        print(f"{shard.device} holds {shard.index} (replica {shard.replica_id})")
