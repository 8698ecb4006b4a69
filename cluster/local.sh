#!/usr/bin/env bash
# Ray with token authentication: a cluster on this machine, or this machine as a part of one.
#
#   local.sh start [CPUS]            start a cluster here, in the background; say what to type next
#   local.sh status                  what it has and what is in use
#   local.sh stop                    end it, and nothing else
#   local.sh head [CPUS]             be the head of a cluster of several machines, in the foreground
#   local.sh worker HOST:PORT [CPUS] join the cluster of that head, in the foreground
#   local.sh health                  whether the node that runs here, of "head" or "worker", is well (for containers)
#
# CPUS is how many Ray shall count: by default this machine's cores, for "start" at least 2. A raylight worker takes
# one. GPUs are counted by Ray itself. These variables change what else there is to choose:
#
#   RAYLIGHT_PORT            the head's port (6379)
#   RAYLIGHT_DASHBOARD_PORT  the dashboard's (8265)
#   RAYLIGHT_DASHBOARD_HOST  the address that the dashboard listens on (127.0.0.1: reached from this machine only)
#   RAYLIGHT_AGENT_PORT      that of Ray's agent on the node, which starts jobs (52365)
#   RAYLIGHT_CLUSTER_DIR     where "start" makes a folder for Ray's files; a short path, as sockets lie in it (/tmp)
#   RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH   the token; else ~/.ray/auth_token, which the head makes where there is none
set -euo pipefail

port=${RAYLIGHT_PORT:-6379}
dashboard_port=${RAYLIGHT_DASHBOARD_PORT:-8265}
dashboard_host=${RAYLIGHT_DASHBOARD_HOST:-127.0.0.1}
agent_port=${RAYLIGHT_AGENT_PORT:-52365}
folder=${RAYLIGHT_CLUSTER_DIR:-/tmp}/raylight-$(id -u)
start_seconds=120
stop_seconds=20
status_seconds=30
export RAY_AUTH_MODE=token # a port of Ray that is open without one runs anybody's code
unset RAY_ADDRESS          # of another cluster

fail() {
    echo "local.sh: $*" >&2
    exit 1
}

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"
}

cores() {
    getconf _NPROCESSORS_ONLN
}

check_count() {
    [[ $1 =~ ^[1-9][0-9]*$ ]] || fail "the number of CPUs is '$1', which is not a whole number from 1."
}

need_ray() {
    command -v ray >/dev/null || fail "no command 'ray'. Activate the environment that has it: . .venv/bin/activate"
}

need_free() { # need_free VARIABLE PORT [VARIABLE PORT ...]
    local others=
    while [[ $# -gt 0 ]]; do
        if (exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null; then
            echo "local.sh: port $2 is taken, by another Ray for one." >&2
            others+="$1=$(($2 + 1)) "
        fi
        shift 2
    done
    [[ -z $others ]] || fail "Stop what has it, or choose another: $others$0 start"
}

make_token() {
    (umask 077 && ray get-auth-token --generate >/dev/null) || fail "no token could be made, see above."
}

need_token() {
    [[ -n ${RAY_AUTH_TOKEN:-} ]] || ray get-auth-token >/dev/null 2>&1 || fail "no token. On the head, type" \
        "'ray get-auth-token', and here: export RAY_AUTH_TOKEN=<what it printed>"
}

pgid() { # of the cluster that "start" has started here, which may have ended since
    cat "$folder/pgid" 2>/dev/null
}

runs() { # whether there is one, or a rest of it; a number that another process has now is not taken for it
    local group
    group=$(pgid) && [[ -n $group ]] && pgrep -g "$group" -f "$folder/|ray\.dashboard" >/dev/null
}

own_folder() {
    mkdir -p "$folder"
    [[ -O $folder && ! -L $folder ]] || fail "$folder is not yours. Choose another place: RAYLIGHT_CLUSTER_DIR=/..."
    chmod 700 "$folder"
}

run_head() { # run_head CPUS [OPTIONS]: does not return
    local cpus=$1
    shift
    # A head that ends takes the cluster with it: there is nothing to wait for.
    export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=${RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S:-0}
    # For a job that is told to stop, to save first; Ray grants 3 seconds otherwise.
    export RAY_JOB_STOP_WAIT_TIME_S=${RAY_JOB_STOP_WAIT_TIME_S:-60}
    exec ray start --head --block --port="$port" --num-cpus="$cpus" \
        --dashboard-host="$dashboard_host" --dashboard-port="$dashboard_port" \
        --dashboard-agent-listen-port="$agent_port" --disable-usage-stats "$@"
}

start() {
    local cpus=${1:-$(cores)}
    [[ $# -gt 0 || $cpus -gt 1 ]] || cpus=2
    check_count "$cpus"
    need_ray
    runs && fail "a cluster runs already. Use it, or end it: $0 stop"
    own_folder
    need_free RAYLIGHT_PORT "$port" RAYLIGHT_DASHBOARD_PORT "$dashboard_port" RAYLIGHT_AGENT_PORT "$agent_port"
    make_token

    rm -rf "${folder:?}"/*
    set -m # a process group of its own, by which "stop" knows all that belongs to it
    (run_head "$cpus" --temp-dir="$folder" --log-style=record) >"$folder/head.log" 2>&1 </dev/null &
    local group=$!
    set +m
    echo "$group" >"$folder/pgid"
    local deadline=$((SECONDS + start_seconds))
    until [[ -s $folder/ray_current_cluster ]]; do # Ray writes it when all has started
        if ! kill -0 "$group" 2>/dev/null || ((SECONDS > deadline)); then
            tail -n 20 "$folder/head.log" >&2
            end_group "$group"
            fail "Ray did not start within $start_seconds s; above is the end of $folder/head.log."
        fi
        sleep 0.2
    done
    disown "$group"
    cat <<EOF
Ray runs on this machine: $cpus CPUs, token authentication.

Type, where you train:
    export RAY_ADDRESS=127.0.0.1:$port RAY_AUTH_MODE=token
    python train.py

Dashboard:  http://127.0.0.1:$dashboard_port   (it asks for the token: ray get-auth-token)
What runs:  $0 status
The end:    $0 stop
EOF
}

status() {
    need_ray
    runs || fail "no cluster runs that '$0 start' has started."
    local text deadline=$((SECONDS + status_seconds))
    while true; do
        text=$(ray status --address "127.0.0.1:$port") || fail "no answer from the cluster at 127.0.0.1:$port, see" \
            "above. Are RAYLIGHT_PORT and the token those that '$0 start' had?"
        [[ $text == "No cluster status"* ]] || break
        ((SECONDS < deadline)) || break # it comes some seconds after the start
        sleep 1
    done
    echo "$text"
}

end_group() { # the leader ends its processes itself, in order; what is left then is killed
    local group=$1 deadline=$((SECONDS + stop_seconds))
    kill -TERM "$group" 2>/dev/null || true
    while kill -0 "$group" 2>/dev/null && ((SECONDS < deadline)); do sleep 0.1; done
    kill -KILL -- "-$group" 2>/dev/null || true
    while pgrep -g "$group" >/dev/null && ((SECONDS < deadline + stop_seconds)); do sleep 0.1; done
}

stop() {
    if runs; then
        end_group "$(pgid)"
        echo "The cluster has ended."
    else
        echo "No cluster runs that '$0 start' has started."
    fi
    [[ ! -O $folder || -L $folder ]] || rm -rf "$folder"
}

head_node() {
    local cpus=${1:-$(cores)}
    # 0: a head that only runs the driver
    [[ $cpus == 0 ]] || check_count "$cpus"
    need_ray
    [[ -n ${RAY_AUTH_TOKEN:-} ]] || make_token
    run_head "$cpus"
}

worker_node() {
    local address=${1:-} cpus=${2:-$(cores)}
    [[ $address == *:* ]] || fail "where is the head? $0 worker HOST:PORT"
    check_count "$cpus"
    need_ray
    need_token
    exec ray start --address="$address" --block --num-cpus="$cpus" \
        --dashboard-agent-listen-port="$agent_port" --disable-usage-stats
}

health() { # Ray's agent on the node says so, to this machine
    local answer url=http://127.0.0.1:$agent_port/api/local_raylet_healthz
    answer=$(wget --quiet --tries=1 --timeout=4 --output-document=- "$url") ||
        fail "no answer of Ray's agent on this machine."
    [[ $answer == success ]] || fail "$answer"
}

case ${1:-} in
    start | status | stop | health) "$@" ;;
    head) head_node "${@:2}" ;;
    worker) worker_node "${@:2}" ;;
    -h | --help | help) usage ;;
    *)
        usage >&2
        exit 2
        ;;
esac
