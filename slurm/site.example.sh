# shellcheck shell=bash disable=SC2034
# Everything that differs between clusters. Copy to slurm/site.sh, edit, and before you submit:  . slurm/site.sh
# sbatch reads the SBATCH_ variables (options on its command line override them); the jobs of these scripts read this file again.

# Partition, account and time limit.
export SBATCH_PARTITION=gpu
# export SBATCH_ACCOUNT=project42
# export SBATCH_QOS=normal
export SBATCH_TIMELIMIT=12:00:00

# Software on the nodes: modules, a virtual or conda environment (default .venv), or a container in which every rank is started.
# module load cuda/12.6
# HBDIST_VENV=/scratch/me/hbdist/.venv
# export HBDIST_CONTAINER="apptainer exec --nv --bind /scratch /scratch/me/hbdist.sif"

# If compute nodes have no internet: fetch models on the login node, into a folder that all nodes see.
# export HF_HOME=/scratch/me/huggingface HF_HUB_OFFLINE=1

# Network of the ranks: the interface, and the first node's address if its name does not resolve on the other nodes (not exported,
# because it differs between jobs).
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0
# HBDIST_MASTER_ADDR=$(hostname --ip-address)

# One `accelerate launch` per node instead of one srun task per GPU.
# export HBDIST_LAUNCHER=accelerate
