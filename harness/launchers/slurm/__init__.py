"""SLURM: what is missing becomes a job array, and a dependent job goes on with the study's next stage.

`submit.py` plans and submits, `worker.py` is an array task, `follow.py` the dependent job, `status.py` tells how it stands.
They meet in files only: results/<study>/slurm/<submission>/ holds manifest.json (what is to be trained, by whom), the job
scripts, the logs and jobs.json. Whether a trial is done is never read from SLURM, only from the records.
"""
