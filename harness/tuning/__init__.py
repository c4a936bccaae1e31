"""What chooses the next trials: search spaces and quasi-random points in them."""

from harness.tuning.space import Axis, Space, default_space, read_space

__all__ = ["Axis", "Space", "default_space", "read_space"]
