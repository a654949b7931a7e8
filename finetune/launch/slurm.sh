#!/usr/bin/env bash
# @ORIGIN@
#
# Submit this with sbatch, with the environment of finetune active, from the folder that its relative paths begin
# at. Data, model and output_dir must lie where every node sees them. What your cluster wants besides:
# #SBATCH --partition=...
# #SBATCH --account=...
#
#SBATCH --job-name=@NAME@
#SBATCH --nodes=@NODES@
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=@GPUS@
#SBATCH --cpus-per-task=@CPUS@
# Whole nodes. To share them, remove the next two lines and ask for the memory that you need.
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --output=@NAME@-%j.log
#SBATCH --open-mode=append
#
# @WARNING@ seconds before the time is up SLURM sends USR1 to this script (before a preemption too, where
# PreemptParameters has send_user_signal). The ranks then finish their step, save and leave, and the job is queued
# again, under the same number. torchrun gives them @GRACE@ seconds (--shutdown-timeout; it would be 30) and kills
# what is left. So a step and a save must fit in @GRACE@ seconds: where they do not, the next job repeats the steps
# since the last checkpoint. Raise both figures together, or lower training_args.save_steps.
# scancel sends TERM, not USR1, and a cancelled job stays cancelled.
#SBATCH --signal=B:USR1@@WARNING@
#SBATCH --requeue
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"

output=@OUTPUT@
train=(@TRAIN@)

warned='' passed='' step=''
pass_on() {
    warned=yes
    # Once: at a second signal torchrun stops waiting and tells its ranks to leave at once.
    if [ -n "$step" ] && [ -z "$passed" ]; then
        passed=yes
        kill -USR1 "$step" || true
    fi
}
trap pass_on USR1

# What run.json says of the run: status, exit code, beginning. torchrun ends with 1 whatever its ranks end with.
state() {
    python3 -c '
import json, sys
try:
    with open(sys.argv[1], encoding="utf-8") as file:
        run = json.load(file)
    print(run["status"], run.get("exit_code"), run["started"])
except (OSError, ValueError, KeyError, TypeError):
    print("none")
' "$output/run.json"
}

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export RDZV_ENDPOINT="${nodes[0]}:$((15000 + SLURM_JOB_ID % 15000))"
export LOGS="$output/logs"
export OMP_NUM_THREADS=1
mkdir -p "$LOGS"
echo "$(date): job $SLURM_JOB_ID on ${nodes[*]}; its output: $LOGS/node-*.log, and a folder for every rank"
before=$(state)

# exec: the signal goes to the task itself, which must be torchrun.
srun --kill-on-bad-exit=1 --cpus-per-task=@CPUS@ bash -c '
    is_host=false
    if [ "$SLURM_NODEID" = 0 ]; then is_host=true; fi
    exec torchrun \
        --nnodes=@NODES@ \
        --nproc-per-node=@GPUS@ \
        --rdzv-backend=c10d \
        --rdzv-id="$SLURM_JOB_ID" \
        --rdzv-endpoint="$RDZV_ENDPOINT" \
        --rdzv-conf="is_host=$is_host" \
        @OPTIONS@ \
        --log-dir="$LOGS/node-$SLURM_NODEID" \
        "$@" >>"$LOGS/node-$SLURM_NODEID.log" 2>&1
' torchrun "${train[@]}" &
step=$!
if [ -n "$warned" ]; then pass_on; fi

# A trap ends `wait` before the step ends.
code=0
wait "$step" || code=$?
while kill -0 "$step" 2>/dev/null; do
    code=0
    wait "$step" || code=$?
done

after=$(state)
echo "$(date): job $SLURM_JOB_ID ended with $code; run.json: $after"
if [ -n "$warned" ] && [ "$code" -ne 0 ]; then
    case $after in
        # Saved; or killed before it had; or stopped before there was anything to say. Never after a failure.
        preempted* | running* | "$before") scontrol requeue "$SLURM_JOB_ID" ;;
    esac
fi
exit "$code"
