#!/usr/bin/env bash
# up.sh: a real SLURM cluster on this machine, for tests: munge, MariaDB + slurmdbd (so that sacct works), slurmctld and a
# slurmd for each of several nodes. No systemd, loopback only, one directory; running it again changes nothing.
# Stop it with down.sh; use it with  . $WINDTUNNEL_SLURM_DIR/env.sh
#
#   WINDTUNNEL_SLURM_DIR     where everything lives   (/tmp/windtunnel-slurm)
#   WINDTUNNEL_SLURM_NODES   number of nodes          (4)
#   WINDTUNNEL_SLURM_CPUS    CPUs a node claims       (2)
#   WINDTUNNEL_SLURM_PORT    first of 400 TCP ports   (17800)
set -euo pipefail
DIR=${WINDTUNNEL_SLURM_DIR:-/tmp/windtunnel-slurm}
NODES=${WINDTUNNEL_SLURM_NODES:-4}
CPUS=${WINDTUNNEL_SLURM_CPUS:-2}
PORT=${WINDTUNNEL_SLURM_PORT:-17800}
PACKAGES=(munge slurm-client slurmctld slurmd slurmdbd mariadb-server-core mariadb-client-core)
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH=$PATH:/usr/sbin:/sbin
. "$HERE/common.sh"

fail() { # the logs' ends too, since check.sh deletes them
  tail -n 5 "$DIR"/log/*.log >&2 2>/dev/null || true
  echo "up.sh: $*" >&2
  exit 1
}

install_packages() {
  local missing=() package policy=/usr/sbin/policy-rc.d
  for package in "${PACKAGES[@]}"; do
    dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || fail "the test cluster is made of Debian's or Ubuntu's packages: ${missing[*]}"
  [ "$(id -u)" = 0 ] || fail "as root: apt-get install ${missing[*]}"
  echo "installing ${missing[*]}"
  if [ ! -e $policy ]; then # or the packages start their own daemons
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  apt-get update -qq >"$DIR/log/apt.log" 2>&1 || fail "apt-get update failed, see $DIR/log/apt.log"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >>"$DIR/log/apt.log" 2>&1 ||
    fail "apt-get failed, see $DIR/log/apt.log"
}

check_names() { # the daemons listen where the host's name points to
  getent ahostsv4 "$(hostname -s)" | awk '{print $1}' | sort -u | grep -v '^127\.' >/dev/null &&
    fail "'$(hostname -s)' must be a name of the loopback interface: add '127.0.0.1 $(hostname -s)' to /etc/hosts"
  getent ahostsv4 "$(hostname -s)" >/dev/null || fail "add '127.0.0.1 $(hostname -s)' to /etc/hosts"
}

check_ports() { # that nobody else has the ports of daemons that are to be started
  local i
  running slurmdbd "$DIR/run/slurmdbd.pid" >/dev/null || check_port $((PORT + 1))
  running slurmctld "$DIR/run/slurmctld.pid" >/dev/null || check_port "$PORT"
  for i in $(seq "$NODES"); do
    running slurmd "$DIR/run/slurmd-n$i.pid" >/dev/null || check_port $((PORT + 10 + i))
  done
}

check_port() {
  ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null || fail "port $1 is taken: set WINDTUNNEL_SLURM_PORT to the first of 400 free ones"
}

write_configuration() {
  local user
  user=$(id -un)
  if [ ! -s "$DIR/etc/munge.key" ]; then (umask 077; head -c 1024 /dev/urandom >"$DIR/etc/munge.key"); fi
  cat >"$DIR/etc/slurm.conf" <<CONF
ClusterName=local
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=$user
SlurmdUser=$user
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SrunPortRange=$((PORT + 100))-$((PORT + 399))
AuthType=auth/munge
CredType=cred/munge
# A requeued job starts again only when its credential has expired: by default after two minutes.
AuthInfo=socket=$DIR/run/munge.socket,cred_expire=5
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT + 1))
# Connections to slurmdbd do not look at AuthInfo; they take the socket from here.
AccountingStoragePass=$DIR/run/munge.socket
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/slurmd-%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd-%n.log
MailProg=/bin/true
MpiDefault=none
# No cgroups: memory limits are not enforced here.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=30
KillWait=5
JobRequeue=1
MaxArraySize=1001
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=n[1-$NODES] NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=[$((PORT + 11))-$((PORT + 10 + NODES))] CPUs=$CPUS RealMemory=4000 Gres=gpu:1
PartitionName=main Nodes=ALL Default=YES DefaultTime=10 PriorityTier=1 GraceTime=10
PartitionName=urgent Nodes=ALL DefaultTime=10 PriorityTier=10 PreemptMode=OFF
CONF
  echo "Name=gpu File=/dev/null" >"$DIR/etc/gres.conf" # one pretended GPU a node
  echo "CgroupAutomount=no" >"$DIR/etc/cgroup.conf"
  (umask 077; cat >"$DIR/etc/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$DIR/run/munge.socket
DbdHost=$(hostname -s)
DbdAddr=127.0.0.1
DbdPort=$((PORT + 1))
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=$user
LogFile=$DIR/log/slurmdbd.log
PidFile=$DIR/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=$user
StorageLoc=slurm_accounting
CONF
  )
  echo "export SLURM_CONF=$DIR/etc/slurm.conf WINDTUNNEL_SLURM_DIR=$DIR" >"$DIR/env.sh"
}

wait_for() { # wait_for SECONDS NAME COMMAND...
  local deadline=$((SECONDS + $1)) name=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || fail "$name does not answer, see $DIR/log"
    sleep 0.1
  done
}

start() { # start NAME PIDFILE COMMAND...: a daemon, unless it runs; it must not hold this script's lock
  local name=$1 pidfile=$2
  shift 2
  running "$name" "$pidfile" >/dev/null && return
  rm -f "$pidfile"
  "$@" </dev/null >>"$DIR/log/start.log" 2>&1 9>&- || fail "$name does not start, see $DIR/log"
}

start_munge() {
  start munged "$DIR/run/munged.pid" munged --force --key-file="$DIR/etc/munge.key" --socket="$DIR/run/munge.socket" \
    --pid-file="$DIR/run/munged.pid" --log-file="$DIR/log/munged.log" --seed-file="$DIR/state/munged.seed"
  wait_for 10 munged munge -n -S "$DIR/run/munge.socket"
}

start_mariadb() { # through a Unix socket only
  local user
  user=$(id -un)
  if [ ! -e "$DIR/mysql/ready" ]; then
    rm -rf "$DIR/mysql"
    mariadb-install-db --no-defaults --user="$user" --datadir="$DIR/mysql" --auth-root-authentication-method=socket \
      --auth-root-socket-user="$user" --skip-test-db >>"$DIR/log/start.log" 2>&1 || fail "mariadb-install-db, see $DIR/log"
    touch "$DIR/mysql/ready"
  fi
  running mariadbd "$DIR/run/mariadbd.pid" >/dev/null && return
  rm -f "$DIR/run/mariadbd.pid"
  setsid mariadbd --no-defaults --user="$user" --datadir="$DIR/mysql" --socket="$DIR/run/mariadbd.socket" --skip-networking \
    --pid-file="$DIR/run/mariadbd.pid" --log-error="$DIR/log/mariadbd.log" --innodb-flush-log-at-trx-commit=0 \
    --innodb-buffer-pool-size=64M --innodb-log-file-size=32M --performance-schema=OFF \
    </dev/null >>"$DIR/log/start.log" 2>&1 9>&- &
  wait_for 60 mariadbd mariadb --no-defaults --socket="$DIR/run/mariadbd.socket" -e 'select 1'
}

start_slurm() {
  local i
  export SLURM_CONF=$DIR/etc/slurm.conf
  MYSQL_UNIX_PORT=$DIR/run/mariadbd.socket start slurmdbd "$DIR/run/slurmdbd.pid" slurmdbd
  wait_for 60 slurmdbd sacctmgr -n show cluster
  sacctmgr -n -P show cluster format=Cluster | grep -qx local || sacctmgr -i add cluster local >>"$DIR/log/start.log" 2>&1
  start slurmctld "$DIR/run/slurmctld.pid" slurmctld
  wait_for 30 slurmctld scontrol ping
  for i in $(seq "$NODES"); do
    mkdir -p "$DIR/spool/n$i"
    start slurmd "$DIR/run/slurmd-n$i.pid" slurmd -N "n$i"
  done
  scontrol update "nodename=n[1-$NODES]" state=resume 2>/dev/null || true # those that a crash left down
  wait_for 60 "every node" all_ready
}

all_ready() {
  [ "$(sinfo -h -N -p main -o %t | grep -cE '^(idle|mix|alloc|comp)$')" -eq "$NODES" ]
}

started=$(date +%s.%N)
for name in ${!SLURM_*} ${!SBATCH_*}; do unset "$name"; done # or the daemons hand them to every job
mkdir -p "$DIR"/{etc,run,log,state,spool}
exec 9>"$DIR/lock"
flock 9
install_packages
check_names
check_ports
write_configuration
start_munge
start_mariadb
start_slurm
echo "$(sbatch --version): $NODES nodes in $(awk -v a="$started" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }') s; use it with:  . $DIR/env.sh"
