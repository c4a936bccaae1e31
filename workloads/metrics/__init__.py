"""Metrics that need more than a mean, computed on the device: one file per kind."""
