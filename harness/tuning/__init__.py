"""What chooses the next trials: search spaces and quasi-random points in them."""

from harness.tuning.space import DEFAULT_AXES, Axis, Points, Space, default_space, parse_space, read_space

__all__ = ["DEFAULT_AXES", "Axis", "Points", "Space", "default_space", "parse_space", "read_space"]
