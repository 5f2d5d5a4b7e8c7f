# shellcheck shell=bash
# Names of each chip generation in the cloud APIs, and the hosts of a topology.
#
# Sets GENERATION, SHAPE, CHIPS and HOSTS (of one slice), HOST_CHIPS, and for TPUs ACCELERATOR_TYPE and
# RUNTIME (queued resources), MACHINE (Compute Engine, GKE), IMAGE_FAMILY (mig) and GKE_ACCELERATOR.
# shellcheck disable=SC2034 # used by the backends

GENERATION="${GPST_TOPOLOGY%%:*}" SHAPE="${GPST_TOPOLOGY#*:}"
[[ "$GPST_TOPOLOGY" == ?*:* && "$SHAPE" =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] ||
  die "--topology=$GPST_TOPOLOGY: write GENERATION:AxB or GENERATION:AxBxC, such as v5e:4x4"
CHIPS=$((${SHAPE//x/*}))
HOST_CHIPS=4
ACCELERATOR_TYPE='' RUNTIME='' MACHINE='' IMAGE_FAMILY='' GKE_ACCELERATOR=''
case "$GENERATION" in
  v4)
    ACCELERATOR_TYPE="v4-$((2 * CHIPS))" # counts cores
    RUNTIME=tpu-ubuntu2204-base MACHINE=ct4p-hightpu-4t GKE_ACCELERATOR=tpu-v4-podslice
    ;;
  v5e)
    ACCELERATOR_TYPE="v5litepod-$CHIPS"
    RUNTIME=v2-alpha-tpuv5-lite GKE_ACCELERATOR=tpu-v5-lite-podslice
    if ((CHIPS <= 8)); then HOST_CHIPS=$CHIPS; fi # a slice of up to 8 chips has one host
    MACHINE="ct5lp-hightpu-${HOST_CHIPS}t"
    ;;
  v5p)
    ACCELERATOR_TYPE="v5p-$((2 * CHIPS))"
    MACHINE=ct5p-hightpu-4t GKE_ACCELERATOR=tpu-v5p-slice IMAGE_FAMILY=ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e
    ;;
  v6e)
    ACCELERATOR_TYPE="v6e-$CHIPS"
    GKE_ACCELERATOR=tpu-v6e-slice IMAGE_FAMILY=ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e
    if ((CHIPS <= 8)); then HOST_CHIPS=$CHIPS; fi
    MACHINE="ct6e-standard-${HOST_CHIPS}t"
    ;;
  tpu7x)
    MACHINE=tpu7x-standard-4t GKE_ACCELERATOR=tpu7x IMAGE_FAMILY=ubuntu-accel-2404-amd64-tpu-tpu7x
    ;;
  gpu | cpu) # NODESxPROCESSES, with one process per GPU
    [[ "$SHAPE" =~ ^[0-9]+x[0-9]+$ ]] || die "--topology=$GPST_TOPOLOGY: gpu:NODESxGPUS or cpu:NODESxPROCESSES"
    HOST_CHIPS="${SHAPE#*x}"
    ;;
  *) die "--topology=$GPST_TOPOLOGY: choose v4, v5e, v5p, v6e, tpu7x, or gpu and cpu for slurm" ;;
esac
if [[ "$GENERATION" != [gc]pu ]]; then
  refusal="$(python3 "$ROOT/gpst_jax/parallel/topologies.py" "$GPST_TOPOLOGY")" ||
    die '--topology: python3 is needed to check it'
  [[ -z "$refusal" ]] || die "--topology=$GPST_TOPOLOGY: $refusal"
fi
((CHIPS % HOST_CHIPS == 0)) ||
  die "--topology=$GPST_TOPOLOGY: $CHIPS chips do not fill hosts of $HOST_CHIPS"
HOSTS=$((CHIPS / HOST_CHIPS))
