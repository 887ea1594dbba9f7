#!/usr/bin/env bash
# Train one config on all tasks of a job, one task per GPU; resume by itself after a time limit or a lost node.
#
#   sbatch --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 slurm/train.sh CONFIG.toml [key=value ...]
#
# Run sbatch in the project's folder. What differs between clusters is in slurm/site.sh, the rest in docs/slurm.md.
#SBATCH --job-name=hbdist-train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --signal=USR2@120
#SBATCH --requeue
#SBATCH --open-mode=append

if ! [ -e slurm/common.sh ]; then
    echo "hbdist: $PWD is not the project's folder: run sbatch there" >&2
    exit 2
fi
. slurm/common.sh
[ $# != 0 ] || refuse "which config? Submit it as: sbatch slurm/train.sh CONFIG.toml"
one_task_per_gpu

folder=$(${HBDIST_CONTAINER:-} python -m hbdist.launch run-folder "$@") || exit 2
outcome() { sed -n 's/.*"state": *"\([a-z]*\)".*/\1/p' "$folder/outcome.json" 2>/dev/null; }
newest() { cat "$folder/checkpoints/latest" 2>/dev/null || echo none; }

own_job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
own_job=${own_job:-$SLURM_JOB_ID}

before=$(newest)
[ "$(outcome)" = "done" ] || rm -f "$folder/outcome.json" # the outcome of an earlier start
on_all_ranks hbdist/train.py "$@"
status=$?
case $(outcome) in
"done") exit 0 ;;
invalid) exit 2 ;;
interrupted) status=75 ;;
failed) status=1 ;; # srun's own may be that of a signal
esac
[ "$status" != 0 ] || status=1 # no outcome was recorded
[ "$ended_by_slurm" = no ] || exit "$status" # Slurm decides what happens next
# Refused, because another process is working on the run: new checkpoints are not this job's.
[ ! -e "$folder/running.json" ] || grep -q "\"job\": \"$own_job\"" "$folder/running.json" || exit 2

# Interrupted or failed. A start that saved something resumes; one that saved nothing would only do the same again.
if [ "$(newest)" = "$before" ]; then
    say "not queued again: this start added no checkpoint (the newest is $before). See above for why it ended;" \
        "a longer --time or a smaller checkpoint.every lets a start get further"
    exit "$status"
fi
if [ "$status" != 75 ] && ! nodes_answer; then
    say "a node does not answer: waiting up to ten minutes for Slurm to see it and queue the job elsewhere"
    sleep 600 &
    wait $!
    [ "$ended_by_slurm" = no ] || exit "$status"
fi
say "the newest checkpoint is $(newest), was $before"
queue_again slurm/train.sh "$@"
exit "$status"
