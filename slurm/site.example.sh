# shellcheck shell=bash disable=SC2034
# All that differs from one cluster to another. Copy to slurm/site.sh, change, and before you submit:  . slurm/site.sh
# sbatch reads the SBATCH_ variables (options on its command line go before them); jobs of these scripts read this file again.

# Where jobs go.
export SBATCH_PARTITION=gpu
# export SBATCH_ACCOUNT=project42
# export SBATCH_QOS=normal
export SBATCH_TIMELIMIT=12:00:00

# What they find there: modules, a virtual or conda environment (default .venv), or a container that every rank is started in.
# module load cuda/12.6
# HBDIST_VENV=/scratch/me/hbdist/.venv
# export HBDIST_CONTAINER="apptainer exec --nv --bind /scratch /scratch/me/hbdist.sif"

# Where compute nodes have no internet: fetch models on the login node, into a folder that all nodes see.
# export HF_HOME=/scratch/me/huggingface HF_HUB_OFFLINE=1

# How ranks speak: the network interface, and the first node's address where its own name does not resolve on the others (not
# exported: it is another one in each job).
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0
# HBDIST_MASTER_ADDR=$(hostname --ip-address)

# One `accelerate launch` a node instead of one srun task per GPU.
# export HBDIST_LAUNCHER=accelerate
