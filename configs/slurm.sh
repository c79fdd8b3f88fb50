#!/bin/bash
# Train on several nodes under SLURM; a job that is preempted or runs out of time goes on by itself.
#
#   sbatch configs/slurm.sh configs/large.yaml [more arguments of worldmodel fit]
#
# Two minutes before the time is up, and when it is preempted, SLURM sends SIGUSR1 or SIGTERM: the run
# then finishes its step, writes last.ckpt and leaves with a code above 128, upon which this job puts
# itself back into the queue. `--ckpt_path unfinished` goes on from there, on as many nodes as there
# are. `make install` and the data come first: nothing here needs the network.
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

# One process per task; a rank that fails ends the others.
srun --kill-on-bad-exit=1 "$python" -m worldmodel fit --config "$config" \
  --trainer.num_nodes "$SLURM_NNODES" --trainer.devices "$SLURM_NTASKS_PER_NODE" \
  --trainer.enable_progress_bar false --ckpt_path unfinished "$@"
code=$?
# srun passes on the largest code of its tasks.
if [ "$code" -gt 128 ]; then
  echo "stopped by a signal (exit code $code): back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
