set -euo pipefail
mapfile -t addresses <<< "$SKYPILOT_NODE_IPS"
is_host=false
if [ "$SKYPILOT_NODE_RANK" = 0 ]; then is_host=true; fi
exec torchrun \
        --nnodes=@NODES@ \
        --nproc-per-node="$SKYPILOT_NUM_GPUS_PER_NODE" \
        --rdzv-backend=c10d \
        --rdzv-id=@NAME@ \
        --rdzv-endpoint="${addresses[0]}:29500" \
        --rdzv-conf="is_host=$is_host" \
        --local-addr="${addresses[$SKYPILOT_NODE_RANK]}" \
        @OPTIONS@ \
        --log-dir=@OUTPUT@/logs/node-"$SKYPILOT_NODE_RANK" \
        @TRAIN@
