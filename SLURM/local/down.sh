#!/usr/bin/env bash
# down.sh: stop what up.sh started, by its pid files.  --purge also deletes its directory.
set -uo pipefail
DIR=${WINDTUNNEL_SLURM_DIR:-/tmp/windtunnel-slurm}
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH=$PATH:/usr/sbin:/sbin
export SLURM_CONF=$DIR/etc/slurm.conf
. "$HERE/common.sh"

end_jobs() { # before the nodes stop, or their job steps outlive them
  timeout 10 scancel --full --user="$(id -un)" 2>/dev/null
  timeout 10 scancel --user="$(id -un)" 2>/dev/null
  for _ in $(seq 100); do
    [ -z "$(timeout 5 squeue -h -t running,completing 2>/dev/null)" ] && return
    sleep 0.2
  done
}

stop() { # stop NAME PIDFILE: TERM, and KILL after 10 s
  local pid
  if pid=$(running "$1" "$2"); then
    kill "$pid"
    for _ in $(seq 100); do
      running "$1" "$2" >/dev/null || break
      sleep 0.1
    done
    running "$1" "$2" >/dev/null && kill -9 "$pid"
  fi
  rm -f "$2"
}

running slurmctld "$DIR/run/slurmctld.pid" >/dev/null && end_jobs
for file in "$DIR"/run/slurmd-*.pid; do stop slurmd "$file"; done
stop slurmctld "$DIR/run/slurmctld.pid"
stop slurmdbd "$DIR/run/slurmdbd.pid"
stop mariadbd "$DIR/run/mariadbd.pid"
stop munged "$DIR/run/munged.pid"
[ "${1:-}" = --purge ] && rm -rf "$DIR"
exit 0
