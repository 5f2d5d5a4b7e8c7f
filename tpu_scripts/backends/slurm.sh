# shellcheck shell=bash
# Nodes of a SLURM cluster, called on its login node. A host is a node, with one process per GPU, as JAX
# expects under SLURM, or so many processes on CPUs. Code and logs are on storage that the nodes share.

RUN_PYTHON=.venv/bin/python

backend_check() {
  [[ "$GENERATION" == [gc]pu ]] ||
    die "--topology=$GPST_TOPOLOGY: for slurm write gpu:NODESxGPUS or cpu:NODESxPROCESSES"
  [[ -z "$GPST_CPUS" || "$GPST_CPUS" =~ ^[1-9][0-9]*$ ]] || die "--cpus=$GPST_CPUS: a whole number above 0"
  ((GPST_NUM_SLICES == 1)) || die '--num_slices: slurm has a single slice; use more nodes'
  LOGS="${GPST_CODE}/runs/slurm/$GPST_NAME"
  NODES=("--nodes=$HOSTS" "--ntasks-per-node=$HOST_CHIPS")
  STEP=()
  if [[ "$GENERATION" == gpu ]]; then NODES+=("--gpus-per-node=$HOST_CHIPS"); fi
  if [[ -n "$GPST_CPUS" ]]; then # steps do not inherit it from their job
    STEP=("--cpus-per-task=$GPST_CPUS")
    NODES+=("${STEP[@]}")
  fi
  if [[ -n "$GPST_PARTITION" ]]; then NODES+=("--partition=$GPST_PARTITION"); fi
  if [[ -n "$GPST_RESERVATION" ]]; then NODES+=("--reservation=$GPST_RESERVATION"); fi
}

backend_create() { note 'slurm: nothing to create; launch.sh requests the nodes'; }

backend_state() { echo ready; }

backend_sync() {
  pack_code && run mkdir -p "$GPST_CODE" && run tar -xzf "$PACKED" -C "$GPST_CODE"
}

backend_setup() {
  local accelerator=cpu
  if [[ "$GENERATION" == gpu ]]; then accelerator=cuda; fi
  run bash -c "cd $(quote "$GPST_CODE") && tpu_scripts/on_host.sh setup $accelerator '' ''"
}

backend_launch() {
  train_command "$RUN_PYTHON"
  run mkdir -p "$LOGS" && run rm -f "$LOGS/stop" && run_with batch_script sbatch
}

# The script itself bounds restarts: SLURM requeues a preempted job without limit.
batch_script() {
  local word
  echo '#!/bin/bash'
  for word in "--job-name=$GPST_NAME" "${NODES[@]}" "--time=$GPST_TIME_LIMIT" --requeue --open-mode=append \
    --signal=TERM@120 "--chdir=$GPST_CODE"; do
    echo "#SBATCH $(quote "$word")"
  done
  echo "#SBATCH $(quote "--output=runs/slurm/$GPST_NAME/job.log")"
  cat <<SCRIPT
restarts=\${SLURM_RESTART_COUNT:-0}
log=runs/slurm/$GPST_NAME
rm -f "\$log/exit_code"
if ((restarts >= $GPST_MAX_TRIES)); then
  echo "error: started $GPST_MAX_TRIES times: giving up"
  echo 69 >"\$log/exit_code"
  exit 69
fi
code=0
# When a process fails, the others end within the heartbeat timeout; the exit codes of all count.
srun --kill-on-bad-exit=0 --wait=600 --output="\$log/process-%t.log" --open-mode=append${STEP:+ ${STEP[*]}} \\
  $(quote "${TRAIN[@]}") || code=\$?
if ((code <= 5 || code == 126 || code == 127)) || [[ -e \$log/stop ]]; then
  echo "\$code" >"\$log/exit_code"
  exit "\$code"
fi
echo "exit code \$code at start \$((restarts + 1)) of $GPST_MAX_TRIES: starting again"
scontrol requeue "\$SLURM_JOB_ID"
SCRIPT
}

job_id() { ask JOB squeue --noheader --me "--name=$GPST_NAME" --format=%A; }

backend_hosts() {
  local job
  job="$(job_id | sed -n 1p)"
  if $GPST_DRY_RUN; then
    local node
    for ((node = 0; node < HOSTS; node++)); do echo "node$node"; done
  elif [[ -n "$job" ]]; then
    scontrol show hostnames "$(squeue --noheader "--jobs=$job" --format=%N)"
  fi
}

backend_on() { # HOST NUMBER WORD...
  local host="$1"
  shift 2
  run srun "--jobid=$(job_id | sed -n 1p)" --overlap "--nodelist=$host" --nodes=1 --ntasks=1 "$@"
}

backend_run_state() {
  local jobs code=0
  jobs="$(job_id)" || code=$?
  if ((code)); then
    echo unknown
  elif [[ -n "$jobs" ]]; then
    echo running
  elif [[ ! -f "$LOGS/exit_code" ]]; then
    if [[ -d "$LOGS" ]]; then echo lost; else echo none; fi
  elif [[ -e "$LOGS/stop" && "$(<"$LOGS/exit_code")" != 0 ]]; then
    echo stopped
  else
    case "$(<"$LOGS/exit_code")" in
      0) echo finished ;;
      [1-5] | 126 | 127) echo "failed $(<"$LOGS/exit_code")" ;;
      *) echo lost ;;
    esac
  fi
}

backend_status() {
  run squeue --me "--name=$GPST_NAME"
  run bash -c "cd $(quote "$GPST_CODE") && $(quote "$RUN_PYTHON" -m experiments.status "--workdir=$GPST_WORKDIR")"
}

backend_logs() { # NUMBER LINES FOLLOW
  local -a command=(tail "--lines=$2")
  if [[ "$3" == true ]]; then command+=(--follow=name --retry); fi
  run "${command[@]}" "$LOGS/process-$1.log"
}

backend_stop() { # the file keeps the script from requeueing the job
  run touch "$LOGS/stop" && run scancel --me "--name=$GPST_NAME" --signal=TERM
}

backend_delete() { run scancel --me "--name=$GPST_NAME"; }
