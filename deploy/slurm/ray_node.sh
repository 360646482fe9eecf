#!/usr/bin/env bash
# usage: ray_node.sh head|node ADDRESS: one Ray process on this machine, until it is stopped.
set -euo pipefail

role=$1 address=$2
mkdir -p "$RESNETD_WORK_DIR/empty"
# Ray puts its working directory on the path of each worker: this one has no package.
cd "$RESNETD_WORK_DIR/empty"

if [ "$role" = head ]; then
  # Only drivers run on the head, no training.
  exec ray start --head --block --port=6379 --node-ip-address="$address" \
    --dashboard-host="$address" --dashboard-port=8265 --dashboard-agent-listen-port=52365 \
    --num-cpus=0 --num-gpus=0 --object-store-memory=100000000 --disable-usage-stats
fi

# gloo, which connects the ranks on CPUs, would listen where the host name leads to.
interface=$(ip -oneline -4 address show | awk -v address="$address" \
  '{split($4, parts, "/"); if (parts[1] == address) {print $2; exit}}')
if [ -n "$interface" ]; then
  export GLOO_SOCKET_IFNAME="$interface"
fi
# The first node has the head, too, whose agent has the other port.
exec ray start --block --address="$RAY_ADDRESS" --node-ip-address="$address" \
  --dashboard-agent-listen-port=52366 \
  --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" \
  --object-store-memory=100000000 --disable-usage-stats
