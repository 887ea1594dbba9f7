#!/usr/bin/env bash
# Evaluate a model on all tasks of a job, one task per GPU. Queued again, it keeps the embeddings that it had.
#
#   sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 slurm/evaluate.sh MODEL --task miracl --out FOLDER [...]
#
# Run sbatch in the project's folder. What differs between clusters is in slurm/site.sh, the rest in docs/slurm.md.
#SBATCH --job-name=hbdist-evaluate
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append

if ! [ -e slurm/common.sh ]; then
    echo "hbdist: $PWD is not the project's folder: run sbatch there" >&2
    exit 2
fi
. slurm/common.sh
one_task_per_gpu

on_all_ranks -m hbdist.evaluation "$@"
