"""Judging an optimizer: equal tuning, winners on fresh seeds, speed-ups by size and duration."""
