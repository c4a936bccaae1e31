"""Hydra launchers: `packed` trains a sweep's jobs in one process, grouped into packs; `slurm` as a job array."""
