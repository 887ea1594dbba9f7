# shellcheck shell=bash
# Sourced by the job scripts: finds Python, starts the ranks, waits for them, and puts the job back into the queue.

say() { echo "hbdist: $*" >&2; }
refuse() { say "$*" && exit 2; }

[ -n "${SLURM_JOB_ID:-}" ] || refuse "this is the script of a job. Submit it: sbatch $0 ..."

site=${HBDIST_SITE:-slurm/site.sh}
[ -e "$site" ] || [ -z "${HBDIST_SITE:-}" ] || refuse "HBDIST_SITE names $site, which does not exist"
# shellcheck source=slurm/site.example.sh
[ ! -e "$site" ] || . "$site"

venv=${HBDIST_VENV:-.venv}
[ -x "$venv/bin/python" ] || [ -z "${HBDIST_VENV:-}" ] || refuse "HBDIST_VENV is $venv, and there is no $venv/bin/python"
[ ! -x "$venv/bin/python" ] || PATH=$(cd "$venv/bin" && pwd):$PATH
[ -n "${HBDIST_CONTAINER:-}" ] || command -v python >/dev/null ||
    refuse "there is no python: no $PWD/.venv, and HBDIST_VENV, HBDIST_CONTAINER and modules in slurm/site.sh provide none"
export PATH PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

tasks=${SLURM_NTASKS_PER_NODE:-1}
# Not checked for a job without ranks: it has GPUs too, where jobs get whole nodes.
one_task_per_gpu() {
    local gpus=${SLURM_GPUS_ON_NODE:-0}
    [ "$gpus" = 0 ] || [ "$gpus" = "$tasks" ] ||
        refuse "a node has $gpus GPUs, and --ntasks-per-node is $tasks. Each GPU needs one task: make them equal"
}

export HBDIST_LAUNCHER=${HBDIST_LAUNCHER:-srun}
case $HBDIST_LAUNCHER in
srun) ;;
accelerate)
    [ -z "${HBDIST_CONTAINER:-}" ] || refuse "HBDIST_LAUNCHER=accelerate does not work with HBDIST_CONTAINER: leave one out"
    ;;
*) refuse "HBDIST_LAUNCHER is $HBDIST_LAUNCHER, which is neither srun nor accelerate" ;;
esac

# A whole node has more CPUs than were requested: its ranks share them, if all nodes have the same number.
cpus=${SLURM_CPUS_PER_TASK:-}
if [ -z "$cpus" ]; then
    have=${SLURM_JOB_CPUS_PER_NODE:-1} # "72(x2)"; with unequal nodes "72(x2),36"
    case "$have" in *,*) have=1 ;; esac
    [ -z "${SLURM_HINT:-}${SLURM_THREADS_PER_CORE:-}" ] || have=1 # not every counted CPU may be used
    cpus=$((${have%%"("*} / tasks))
    [ "$cpus" -gt 0 ] || cpus=1
fi

# on_all_ranks SCRIPT.py|-m MODULE [ARGUMENT ...]: run it on every rank. The log names a rank that fails, and the others end.
# Afterwards ended_by_slurm=yes means that the job was preempted or cancelled, reached its time limit or lost a node.
# shellcheck disable=SC2034
ended_by_slurm=no
on_all_ranks() {
    local per_node=$tasks per_task=$cpus step status
    [ "$HBDIST_LAUNCHER" = srun ] || { per_node=1 && per_task=$((cpus * tasks)); }
    export HBDIST_RANKS_PER_NODE=$tasks
    unset SLURM_GPUS_PER_TASK SLURM_TRES_PER_TASK SLURM_GPU_BIND # a rank sees all GPUs of its node and uses its own
    # Rank 0 runs on the job's first node, as this script does. hbdist/launch/rank.py sets the other variables of a rank.
    HBDIST_MASTER_ADDR=${HBDIST_MASTER_ADDR:-$(hostname)} \
        srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks=$((SLURM_JOB_NUM_NODES * per_node)) --ntasks-per-node="$per_node" \
        --cpus-per-task="$per_task" --export=ALL --kill-on-bad-exit=1 --label bash slurm/task.sh "$@" &
    step=$!
    trap 'ended_by_slurm=yes' TERM
    trap 'kill -USR2 "$step"' USR2 # for --signal=B:USR2@...; srun forwards it
    wait "$step"
    status=$?
    while kill -0 "$step" 2>/dev/null; do # a signal ended the wait, not the step
        wait "$step"
        status=$?
    done
    return "$status"
}

# Check that every node of the job can still start something. Slurm notices a dead node late.
nodes_answer() {
    timeout 60 srun --overlap --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 true
}

# queue_again SCRIPT [ARGUMENT ...]: by scontrol, else as a new job that waits for the end of this one; print which.
queue_again() {
    local again
    if command -v scontrol >/dev/null && scontrol requeue "$SLURM_JOB_ID"; then
        say "queued again"
    elif again=$(submit_again "$@"); then
        say "submitted again, as job $again"
    else
        say "Slurm accepts no job from here. Submit the same again: it resumes where this one stopped"
    fi
}

submit_again() (
    options=(--parsable --dependency="afterany:$SLURM_JOB_ID" --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node="$tasks")
    same() { [ -z "$2" ] || options+=("$1=$2"); }
    same --job-name "$SLURM_JOB_NAME"
    same --partition "$SLURM_JOB_PARTITION"
    same --account "${SLURM_JOB_ACCOUNT:-}"
    same --qos "${SLURM_JOB_QOS:-}"
    same --cpus-per-task "${SLURM_CPUS_PER_TASK:-}"
    same --constraint "${SLURM_JOB_CONSTRAINTS:-}"
    same --reservation "${SLURM_JOB_RESERVATION:-}"
    same --gpus-per-node "${SLURM_GPUS_PER_NODE:-${SLURM_GPUS_ON_NODE:-}}" # the former also names the type
    same --mem "${SLURM_MEM_PER_NODE:-}"
    same --mem-per-cpu "${SLURM_MEM_PER_CPU:-}"
    same --time "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%l 2>/dev/null)"
    log=$(readlink "/proc/$$/fd/1")
    [ ! -f "$log" ] || same --output "$log"
    conf=${SLURM_CONF:-}
    unset "${!SLURM_@}" # sbatch would take this job's own shape as options
    [ -z "$conf" ] || export SLURM_CONF=$conf
    sbatch "${options[@]}" "$@"
)
