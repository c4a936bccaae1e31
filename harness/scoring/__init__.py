"""Scoring: times to targets, performance profiles, scores with intervals.

trials = Trials(submission, study, workload, trial, hit_index, seconds)      # a long table, one row a trial
times = study_times(trials, targets.workloads, RULES["exact"]())             # (submission, workload, study)
scores = leaderboard(times, RULES["exact"]())                                # scores, intervals, ratios, leave-one-out
"""

from harness.scoring.hits import NEVER, Hit, first_hit
from harness.scoring.rules import RULES, Rules
from harness.scoring.scores import Scores, leaderboard
from harness.scoring.targets import Targets, Workloads, read_targets
from harness.scoring.trials import StudyTimes, Trials, study_times

__all__ = [
    "NEVER",
    "RULES",
    "Hit",
    "Rules",
    "Scores",
    "StudyTimes",
    "Targets",
    "Trials",
    "Workloads",
    "first_hit",
    "leaderboard",
    "read_targets",
    "study_times",
]
