#!/usr/bin/env bash
# Submit what a study still lacks (trainings, evaluations, the report), and end. Submit it again to continue the study.
#
#   sbatch slurm/sweep.sh STUDY.toml [key=value ...]
#
# Run sbatch in the project's folder. The study's [resources] describe its jobs; docs/studies.md has the rest.
#SBATCH --job-name=hbdist-sweep
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append

if ! [ -e slurm/common.sh ]; then
    echo "hbdist: $PWD is not the project's folder: run sbatch there" >&2
    exit 2
fi
. slurm/common.sh
[ $# != 0 ] || refuse "which study? Submit it as: sbatch slurm/sweep.sh STUDY.toml"

[ -z "${HBDIST_CONTAINER:-}" ] || say "the jobs of a study run in $(command -v python), not in HBDIST_CONTAINER"

python -m hbdist study submit "$1" --cluster slurm "${@:2}"
