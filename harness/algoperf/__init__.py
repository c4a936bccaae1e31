"""Submissions written for AlgoPerf's JAX API (MLCommons, version 0.6), run on our workloads."""

from harness.algoperf.log import is_logged, logged, write_log
from harness.algoperf.records import Evaluation, Run, Task
from harness.algoperf.reference import step_seconds
from harness.algoperf.run import train
from harness.algoperf.space import FILE as SPACE_FILE
from harness.algoperf.space import read_points
from harness.algoperf.submission import AlgoPerfSubmission, is_algoperf_style, load

__all__ = [
    "SPACE_FILE",
    "AlgoPerfSubmission",
    "Evaluation",
    "Run",
    "Task",
    "is_algoperf_style",
    "is_logged",
    "load",
    "logged",
    "read_points",
    "step_seconds",
    "train",
    "write_log",
]
