"""The text of job scripts. Every value is one word to sbatch and to the shell, whatever characters it has."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from harness.config import ClusterConfig
from workloads.base import BadInput

_SECRET = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)
_EARLY = 60  # SLURM may signal a minute before it was asked to

# The worker's exit codes.
STOPPED = 75  # checkpointed because a signal came
GAVE_UP = 3  # too many attempts without progress

# srun does not look at --cpus-per-task, nor (since 22.05) at what sbatch was asked for.
_CPUS = 'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"\n'
_SUPERVISE = """\
# The worker checkpoints at the next chunk when it gets USR2 (time is nearly up), USR1 or TERM. TERM itself would make srun
# kill it. It may already be gone when `wait` returns because of a signal, so only a `wait` without one tells its exit code.
child= signal=
forward() { signal=$1; [ -z "$child" ] || kill -s "$1" "$child" 2>/dev/null; }
trap 'forward USR2' USR2
trap 'forward USR1' TERM
attempts=__ATTEMPTS__/"$SLURM_ARRAY_TASK_ID"
counted=$(stat -c %y "$attempts" 2>/dev/null)
srun --ntasks=1 __COMMAND__ index="$SLURM_ARRAY_TASK_ID" </dev/null &
child=$!
[ -z "$signal" ] || kill -s "$signal" "$child" 2>/dev/null
while :; do
  signal=
  wait "$child"
  code=$?
  [ -n "$signal" ] || break
done
trap '' USR2
trap - TERM

# Not SLURM_JOB_ID: the last task of an array has the array's own, which would mean all tasks.
job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
patient() { # the controller may be away for a while
  for _ in {1..60}; do "$@" && return; sleep 5; done
  return 1
}
running() { [ "$(patient squeue --noheader --jobs="$job" --format=%T)" = RUNNING ]; }
over() { # a step tells the controller of its end once a minute if it was away; the job's next start here must not meet it
  for _ in {1..100}; do pgrep -f "^slurmstepd: \\[$SLURM_JOB_ID\\.[0-9]" >/dev/null 2>&1 || return 0; sleep 1; done
}
again() { # not if it is being cancelled, or already requeued by SLURM: then it is no longer RUNNING
  running && over && running || return
  echo "exit code $code: requeued"
  patient scontrol requeue "$job" && sleep 300
}
count=$(cat "$attempts" 2>/dev/null || echo 0)
case $code in
  0 | 2 | 3) ;;                  # done; bad input; gave up
  75 | 138 | 140 | 143) again ;; # stopped by a signal, or killed by one before it listened
  *)
    if [ "$(stat -c %y "$attempts" 2>/dev/null)" = "$counted" ]; then # it died before it counted this attempt
      count=$((count + 1))
      echo "$count" >"$attempts"
    fi
    [ "$count" -gt __RETRIES__ ] || again
    ;;
esac
echo "exit code $code"
exit "$code"
"""


def array_script(
    cluster: ClusterConfig, study: str, folder: Path, code: Path, manifest: Path, tasks: int, directory: Path
) -> str:
    """The job array that trains `tasks` tasks. Raises BadInput if a value can't be handed to SLURM."""
    _check(cluster)
    most = f"%{cluster.concurrent}" if cluster.concurrent else ""
    options = {
        "job-name": job_name(study),
        "array": f"0-{tasks - 1}{most}",
        "output": f"{_pattern(folder)}/logs/%a.log",
        "open-mode": "append",
        "chdir": str(directory),
        "requeue": "",
        "signal": f"B:USR2@{cluster.signal_s}",
        "time": str(cluster.time_min),
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": str(cluster.cpus),
        **_resources(cluster, cluster.partition, cluster.mem_gb),
        **_gpus(cluster),
    }
    command = [*cluster.container, *_python(cluster), "harness.launchers.slurm.worker", f"manifest={manifest}"]
    body = _SUPERVISE.replace("__COMMAND__", shlex.join(command)).replace("__RETRIES__", str(cluster.retries))
    body = body.replace("__ATTEMPTS__", shlex.quote(str(folder / "attempts")))
    return _script(cluster, options, code, _CPUS + body)


def follow_script(
    cluster: ClusterConfig,
    study: str,
    folder: Path,
    code: Path,
    manifest: Path,
    directory: Path,
    measures: bool = False,
) -> str:
    """The job that goes on when the array has done its work. measures: it computes, on such a node as the array's tasks."""
    analysis = cluster.analysis
    node = (cluster.time_min, cluster.cpus, cluster.partition, cluster.mem_gb)
    desk = (analysis.time_min, analysis.cpus, analysis.partition or cluster.partition, analysis.mem_gb)
    minutes, cpus, partition, mem_gb = node if measures else desk
    options = {
        "job-name": f"{job_name(study)}-next",
        "output": f"{_pattern(folder)}/logs/next.log",
        "open-mode": "append",
        "chdir": str(directory),
        "requeue": "",
        "time": str(minutes),
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": str(cpus),
        **_resources(cluster, partition, mem_gb),
        **(_gpus(cluster) if measures else {}),
    }
    command = [*cluster.container, *_python(cluster), "harness.launchers.slurm.follow", f"manifest={manifest}"]
    return _script(cluster, options, code, f"{_CPUS}exec srun --ntasks=1 {shlex.join(command)}\n")


def job_name(study: str) -> str:
    return "windtunnel-" + re.sub(r"[^A-Za-z0-9_.-]", "_", study)


def _resources(cluster: ClusterConfig, partition: str | None, mem_gb: float | None) -> dict[str, str]:
    wishes = {
        "partition": partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "mem": None if mem_gb is None else f"{round(mem_gb * 1024)}M",
    }
    return {name: value for name, value in wishes.items() if value is not None}


def _gpus(cluster: ClusterConfig) -> dict[str, str]:
    if not cluster.gpus:
        return {}
    return {"gres": f"gpu:{cluster.gpu_type}:{cluster.gpus}" if cluster.gpu_type else f"gpu:{cluster.gpus}"}


def _script(cluster: ClusterConfig, options: Mapping[str, str], code: Path, body: str) -> str:
    wishes = [f"--{name}={value}" if value else f"--{name}" for name, value in options.items()] + list(cluster.options)
    shell = "#!/bin/bash -l" if cluster.modules else "#!/bin/bash"  # a login shell knows `module`
    lines = [shell, *(f"#SBATCH {_one_line(wish)}" for wish in wishes)]
    lines += [f"module load {shlex.quote(module)}" for module in cluster.modules]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in cluster.environment.items()]
    lines += [f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONUNBUFFERED=1"]
    return "\n".join(lines) + "\n" + body


def _python(cluster: ClusterConfig) -> list[str]:
    return [cluster.python or sys.executable, "-P", "-m"]  # -P: the code's snapshot, not the working directory


def _one_line(wish: str) -> str:
    """A word for sbatch, which reads scripts line by line."""
    if any(ord(character) < 32 for character in wish):
        raise BadInput(f"{wish!r} cannot be told to sbatch, which reads options line by line; remove the line break")
    return shlex.quote(wish)


def _pattern(path: Path) -> str:
    """A path in which sbatch replaces nothing."""
    return str(path).replace("%", "%%")


def _check(cluster: ClusterConfig) -> None:
    _at_least(cluster, {"cpus": 1, "time_min": 1, "signal_s": 1, "max_tasks": 1, "concurrent": 1})
    _at_least(cluster, {"gpus": 0, "retries": 0, "task_min": 0, "mem_gb": 0})
    if cluster.time_min * 60 <= cluster.signal_s + 2 * _EARLY:
        raise BadInput(
            f"cluster.time_min={cluster.time_min} leaves no time to train before the warning (cluster.signal_s="
            f"{cluster.signal_s}, which SLURM may give {_EARLY} s early); ask for more time or a later warning"
        )
    for name in cluster.environment:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise BadInput(f"cluster.environment: '{name}' is not the name of a variable")
        if _SECRET.search(name):
            raise BadInput(
                f"cluster.environment.{name} looks like a secret, and would be written into job scripts; export it in your "
                "shell instead: jobs inherit the environment they are submitted from"
            )


def _at_least(cluster: ClusterConfig, least: Mapping[str, float]) -> None:
    for name, bound in least.items():
        value = getattr(cluster, name)
        if value is not None and value < bound:
            raise BadInput(f"cluster.{name}={value} must be at least {bound}")
