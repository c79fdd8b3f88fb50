#!/bin/bash
# Train on several nodes under SLURM; a job that is preempted or runs out of time goes on by itself.
#
#   sbatch configs/slurm.sh configs/large.yaml [more arguments of worldmodel fit]
#   sbatch --nodes=2 --ntasks-per-node=1 --gpus-per-node=0 --cpus-per-task=2 configs/slurm.sh …   (CPUs)
#
# Two minutes before the time is up, and when it is preempted, SLURM sends SIGUSR1 or SIGTERM: the run
# then finishes its step, writes last.ckpt and leaves with the code asked for below, upon which this
# job puts itself back into the queue, and goes on from there with the run that it had. Nothing else
# puts it back: neither `scancel JOB` nor a failure (memory, configuration, a process that is killed).
# `scancel --signal=USR1 JOB` moves it to the end of the queue. `make install` and the data come
# first: nothing here needs the network.
#SBATCH --job-name=worldmodel
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -u
config=${1:?which configuration? sbatch configs/slurm.sh configs/large.yaml}
shift
python=${PYTHON:-.venv/bin/python}

# 128 + a signal says too little: when one task fails, srun ends the others by SIGTERM, and passes on
# the largest code of all.
export WORLDMODEL_STOP_CODE=75
# One process per task; a rank that fails ends the others. From 22.05 on srun does not know by itself
# how many CPUs the job asked for.
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  "$python" -m worldmodel fit --config "$config" \
  --trainer.num_nodes "$SLURM_NNODES" --trainer.devices "$SLURM_NTASKS_PER_NODE" \
  --trainer.enable_progress_bar false --ckpt_path unfinished "$@"
code=$?
if [ "$code" -eq "$WORLDMODEL_STOP_CODE" ]; then
  echo "stopped by a signal, and saved: back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
