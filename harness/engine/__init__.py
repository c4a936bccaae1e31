"""The engine: packs of trials as one compiled program; clocks, checkpoints, divergence, devices."""
