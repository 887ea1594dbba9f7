#!/usr/bin/env bash
# One task of srun: one rank, or with HBDIST_LAUNCHER=accelerate the launcher of all ranks of its node.
#   task.sh SCRIPT.py|-m MODULE [ARGUMENT ...]

if [ "$HBDIST_LAUNCHER" = srun ]; then
    # shellcheck disable=SC2086
    exec ${HBDIST_CONTAINER:-} python -m hbdist.launch slurm-rank "$@" # no shell between Slurm's signals and the rank
fi

options=$(python -m hbdist.launch accelerate-options) || exit
# A launcher forwards no signals, and USR2 would end it: it ignores USR2, and its children, the ranks, get it from here.
# TERM reaches the whole process group; the launcher ends its ranks on it.
trap '' USR2
# shellcheck disable=SC2086
accelerate launch --config_file launch/accelerate/multinode.yaml $options "$@" &
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
