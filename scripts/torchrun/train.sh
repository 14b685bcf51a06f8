#!/usr/bin/env bash
# Trains one run on several machines without SLURM. Start it on every machine, with the same arguments:
#
#   NODES=2 GPUS=8 HEAD=node1:29500 scripts/torchrun/train.sh name=casiab-128 experiment=casiab_128
#
# NODES: how many machines. GPUS: of each. HEAD: host and free port of one of them. What follows are overrides of
# `python -m cstl.train`; name= must be among them. All machines see the same runs/ and data/. Stopped or broken off,
# the run goes on when the same command is given again. TORCHRUN=… is the launcher.
set -euo pipefail

case " $* " in
  *" name="*) ;;
  *)
    echo "error: give the run a name, ${0##*/} name=NAME …: its folder is runs/NAME, and there it goes on" >&2
    exit 2
    ;;
esac
: "${NODES:?how many machines, for example NODES=2}"
: "${GPUS:?how many GPUs each machine has, for example GPUS=8}"
: "${HEAD:?host and port of one of the machines, for example HEAD=node1:29500}"

exec "${TORCHRUN:-torchrun}" --nnodes="$NODES" --nproc-per-node="$GPUS" \
  --rdzv-backend=c10d --rdzv-endpoint="$HEAD" --rdzv-id=cstl \
  -m cstl.train trainer=ddp trainer.num_nodes="$NODES" trainer.devices="$GPUS" "$@"
