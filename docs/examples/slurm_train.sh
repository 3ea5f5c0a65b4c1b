#!/bin/bash
# Trains one run on four nodes, one rank on each processor core of a task: sbatch docs/examples/slurm_train.sh
#SBATCH --job-name=metarl
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120   # all is saved before the time is up; the same script then goes on
set -euo pipefail

CONFIG=configs/rl2_ml10.yaml
RUN=runs/rl2_ml10_slurm/seed1 # on a file system that the first node keeps
RANKS=8                       # a node; each plays its share of the meta-batch on 32 / 8 cores

head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / RANKS))
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # so that a node that was replaced can join

arguments=("$CONFIG" --run-dir "$RUN" --train.meta_batch_size 160)
if [ -d "$RUN" ]; then
  arguments=(--resume "$RUN")
fi

srun .venv/bin/torchrun \
  --nnodes "$SLURM_NNODES" --nproc-per-node "$RANKS" --max-restarts 3 \
  --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$head_node:29400" \
  train.py "${arguments[@]}"
