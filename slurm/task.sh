#!/usr/bin/env bash
# What one task of srun runs: one rank, or with HBDIST_LAUNCHER=accelerate the launcher of all ranks of its node.
#   task.sh SCRIPT.py|-m MODULE [ARGUMENT ...]

world=$((SLURM_STEP_NUM_NODES * HBDIST_RANKS_A_NODE))

if [ "$HBDIST_LAUNCHER" = srun ]; then
    export RANK=$SLURM_PROCID WORLD_SIZE=$world LOCAL_RANK=$SLURM_LOCALID LOCAL_WORLD_SIZE=$HBDIST_RANKS_A_NODE
    # shellcheck disable=SC2086
    exec ${HBDIST_CONTAINER:-} python "$@" # no shell between Slurm's signals and the rank
fi

# A launcher passes no signal on, and USR2 would end it: it ignores USR2, and its children, the ranks, get it from here.
# TERM comes to the whole process group; the launcher ends its ranks by it.
trap '' USR2
accelerate launch --config_file launch/accelerate/multinode.yaml --num_processes "$world" \
    --num_machines "$SLURM_STEP_NUM_NODES" --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" "$@" &
launcher=$!
# shellcheck disable=SC2046
trap 'kill -USR2 $(cat /proc/$launcher/task/*/children)' USR2
trap : TERM
wait "$launcher"
status=$?
while kill -0 "$launcher" 2>/dev/null; do # a trap ended the wait
    wait "$launcher"
    status=$?
done
exit "$status"
