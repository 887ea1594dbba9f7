#!/usr/bin/env bash
# `make slurm-demo`: an emulated Slurm cluster of four nodes on this machine trains the demo on two of them, and is removed.
set -euo pipefail
cd "$(dirname "$0")/.."

run=runs/slurm-demo
rm -rf "$run"
mkdir -p "$run"

# If this machine belongs to a real cluster, its settings are not for this one.
export HBDIST_SITE=/dev/null
unset HBDIST_CONTAINER HBDIST_LAUNCHER "${!SBATCH_@}"
use=$(python3 tests/slurm_cluster up)
trap 'python3 tests/slurm_cluster down' EXIT
eval "$use"
sinfo
job=$(sbatch --parsable --nodes=2 --ntasks-per-node=2 --output="$run/job.log" \
    slurm/train.sh launch/train/demo.toml steps=4 batch.size=16 run.folder="$run")
squeue
tail --follow=name --retry --pid=$$ "$run/job.log" 2>/dev/null &
while squeue --noheader --jobs="$job" | grep -q .; do sleep 1; done
sleep 1 # for the end of the log
sacct --jobs="$job" --format=JobID,JobName,State,ExitCode,Elapsed,NNodes,NTasks,NodeList%14
grep -q '"done"' "$run/outcome.json"
