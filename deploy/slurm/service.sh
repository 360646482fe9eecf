#!/usr/bin/env bash
#SBATCH --job-name=resnetd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=1-00:00:00
#SBATCH --no-kill
#SBATCH --signal=B:TERM@120
# The service and a Ray cluster in an allocation of Slurm; see docs/how-to/deploy-on-slurm.md.
#
#     sbatch --nodes=4 --gpus-per-node=2 deploy/slurm/service.sh
#
# The queue is in the database: the next allocation continues where this one ends.
#     RESNETD_HOME            installation, with bin/ray and bin/resnetd-api (default: /opt/resnetd)
#     RESNETD_VAR_DIR         state, on a file system of all nodes (required)
#     RESNETD_WORK_DIR        local disk of each node (default: /tmp/resnetd-JOB)
#     RESNETD_DATABASE_URL    PostgreSQL, unless the first node's file system can hold SQLite
set -euo pipefail

: "${RESNETD_VAR_DIR:?must be a folder on a file system of all nodes}"
: "${SLURM_JOB_NODELIST:?must run in an allocation: sbatch deploy/slurm/service.sh}"

# Slurm copies this script to its spool folder; the next one stays where it is.
folder=${RESNETD_SLURM_SCRIPTS:-${SLURM_SUBMIT_DIR:-.}/deploy/slurm}
export PATH="${RESNETD_HOME:-/opt/resnetd}/bin:$PATH"
export RESNETD_VAR_DIR
export RESNETD_WORK_DIR="${RESNETD_WORK_DIR:-/tmp/resnetd-$SLURM_JOB_ID}"

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address_of() {
  scontrol getaddrs "$1" | sed -n 's/^[^ ]*: *\([0-9.]*\):[0-9]*.*/\1/p;q'
}
HEAD_ADDRESS=$(address_of "${hosts[0]}")
export HEAD_ADDRESS

umask 077
mkdir -p "$RESNETD_VAR_DIR/secrets"
export RESNETD_SECRETS_DIR="$RESNETD_VAR_DIR/secrets"
token=$RESNETD_SECRETS_DIR/resnetd_ray_token
[ -s "$token" ] || od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$token"
export RAY_ADDRESS="$HEAD_ADDRESS:6379"
export RAY_USAGE_STATS_ENABLED=0
# By default workers run at nice 15, and any other process starves them.
export RAY_worker_niceness=0
# Ray Train's workers never use a process that Ray started in advance.
export RAY_prestart_worker_first_driver=0

export RESNETD_API_HOST=0.0.0.0 RESNETD_API_PORT="${RESNETD_API_PORT:-8000}"
export RESNETD_API_URL="http://$HEAD_ADDRESS:$RESNETD_API_PORT"
export RESNETD_RAY_URL="http://$HEAD_ADDRESS:8265"

# One task on a node, again after it ends: a node that was cut off must join Ray anew.
supervise() {
  local host=$1
  shift
  until [ -e "$RESNETD_VAR_DIR/stopping-$SLURM_JOB_ID" ]; do
    srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
      --nodelist="$host" "$@" || echo "$* on $host ended with status $?" >&2
    sleep "${RESTART_SECONDS:-5}"
  done
}

stop() {
  trap - TERM INT
  touch "$RESNETD_VAR_DIR/stopping-$SLURM_JOB_ID"
  # The service first: what runs resumes from its checkpoints in the next allocation.
  for step in "${service[@]}"; do pkill -TERM -P "$step" srun || true; done
  wait "${service[@]}"
  for step in "${ray[@]}"; do pkill -TERM -P "$step" srun || true; done
  wait
  rm -f "$RESNETD_VAR_DIR/stopping-$SLURM_JOB_ID"
  exit 0
}

resnetd-server migrate
echo "$RESNETD_API_URL" > "$RESNETD_VAR_DIR/api-url"

service=() ray=()
trap stop TERM INT
supervise "${hosts[0]}" "$folder/ray_node.sh" head "$HEAD_ADDRESS" & ray+=($!)
for host in "${hosts[@]}"; do
  supervise "$host" "$folder/ray_node.sh" node "$(address_of "$host")" & ray+=($!)
done
supervise "${hosts[0]}" resnetd-api & service+=($!)
supervise "${hosts[0]}" resnetd-worker dispatcher & service+=($!)
echo "resnetd: $RESNETD_API_URL, token in $RESNETD_VAR_DIR/token"
wait
