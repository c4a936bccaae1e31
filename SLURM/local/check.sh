#!/usr/bin/env bash
# check.sh PYTHON [PYTEST OPTIONS]: start the test cluster, run tests/slurm on it, and stop it, whatever happens.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
trap 'SLURM/local/down.sh --purge' EXIT
SLURM/local/up.sh
. "${WINDTUNNEL_SLURM_DIR:-/tmp/windtunnel-slurm}/env.sh"
WINDTUNNEL_SLURM=1 "$1" -m pytest tests/slurm -p no:cacheprovider "${@:2}"
