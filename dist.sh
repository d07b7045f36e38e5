#!/usr/bin/env bash
# torchrun on one machine, nothing else: ./dist.sh SCRIPT OPTIONS... --gpu 0,1   or   --cpu 2
# NCCL between GPUs, gloo between CPU processes.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
python="python"
[ -x "$here/.venv/bin/python" ] && [ -z "${VIRTUAL_ENV:-}" ] && python="$here/.venv/bin/python"

usage() { echo "error: usage: ./dist.sh SCRIPT OPTIONS... (--gpu 0,1 | --cpu N)" >&2; exit 2; }
processes="" device="" options=()
while [ $# -gt 0 ]; do
  case "$1" in
    --gpu) [ $# -ge 2 ] || usage
           IFS=, read -ra ids <<<"$2"; processes=${#ids[@]} device=cuda; export CUDA_VISIBLE_DEVICES="$2"; shift 2 ;;
    --cpu) [ $# -ge 2 ] || usage
           processes="$2" device=cpu; shift 2 ;;
    *) options+=("$1"); shift ;;
  esac
done
[[ "$processes" =~ ^[1-9][0-9]*$ ]] && [ "${#options[@]}" -gt 0 ] || usage
if [ "$device" = cpu ] && [ -z "${OMP_NUM_THREADS:-}" ]; then
  cores=$(getconf _NPROCESSORS_ONLN)
  export OMP_NUM_THREADS=$((cores > processes ? cores / processes : 1))
fi
exec "$python" -m torch.distributed.run --standalone --nproc_per_node="$processes" "${options[@]}" --device "$device"
