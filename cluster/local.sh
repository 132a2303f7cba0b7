#!/usr/bin/env bash
# A real Ray cluster on this machine: a head and workers as separate `ray start` processes, with a
# dashboard and a job server on loopback and token authentication. It runs until Ctrl-C, and ends
# only its own processes (`ray stop` would end every Ray on the machine).
#
# Change nothing here; the options are:
#   --workers N          worker nodes (2)
#   --cpus N             logical CPUs of each worker (1)
#   --port N             of the head, where nodes and drivers connect (6380)
#   --dashboard-port N   of the dashboard and the job server (8265)
#   --store-mb N         object store of each node, in megabytes (200)
#   --prometheus-port N  a Prometheus over the metrics of all nodes, on this port (none)
set -euo pipefail

workers=2 cpus=1 port=6380 dashboard_port=8265 store_mb=200 prometheus_port=

usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' "$0"; }

while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage && exit 0 ;;
    --workers | --cpus | --port | --dashboard-port | --store-mb | --prometheus-port)
      case "${2:-}" in '' | *[!0-9]*) echo "cluster/local.sh: $1 needs a number" >&2 && exit 2 ;; esac
      name=${1#--} && printf -v "${name//-/_}" '%s' "$2"
      shift 2
      ;;
    *) echo "cluster/local.sh: unknown option $1; see --help" >&2 && exit 2 ;;
  esac
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=${CATDOG_BIN:-$root/.venv/bin}
catdog=$bin/catdog
if [ "$(command -v catdog)" = "$catdog" ]; then catdog=catdog; fi
if [ ! -x "$bin/ray" ]; then
  echo "cluster/local.sh: $bin/ray is missing; run \`make install\` first" >&2
  exit 2
fi

if [ -n "$prometheus_port" ] && ! command -v prometheus >/dev/null; then
  echo "cluster/local.sh: prometheus is not in PATH; \`apt-get install prometheus\` brings it" >&2
  exit 2
fi

# Ray would say so in a traceback in its log, or wait for a head that is none of ours.
taken=$("$bin/python" - "--port:0.0.0.0:$port" "--dashboard-port:127.0.0.1:$dashboard_port" \
  ${prometheus_port:+"--prometheus-port:127.0.0.1:$prometheus_port"} <<'PYTHON'
import socket, sys
for option, host, port in (each.split(":") for each in sys.argv[1:]):
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, int(port)))
        except (OSError, OverflowError) as error:
            raise SystemExit(print(f"port {port}: {getattr(error, 'strerror', error)}; `cluster/local.sh {option} N` takes another"))
PYTHON
)
if [ -n "$taken" ]; then
  echo "cluster/local.sh: $taken" >&2
  exit 2
fi

# Short, because paths of Unix sockets lie in it and may have only 107 characters. Only this user
# may enter it: Ray opens its own folder to everybody.
folder=$(mktemp -d "${TMPDIR:-/tmp}/catdog.XXXXXX")
pids=()
declare -A names=() # of the pids
waiter=
exec 3>&2 # for our own words, once bash's remarks about its jobs are turned off

finish() {
  trap - EXIT INT TERM HUP
  exec 2>/dev/null
  if [ -n "$waiter" ]; then kill -KILL "$waiter" || true; fi
  # Asked first, the head last, which would otherwise report the workers as lost; then made to. A
  # `ray start` can take half a minute over it on a busy machine, and there is nothing to lose.
  local pid
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do kill -TERM "${pids[i]}" 2>/dev/null || true; done
  for _ in {1..60}; do
    kill -0 "${pids[@]}" 2>/dev/null || break
    sleep 0.1
  done
  for pid in "${pids[@]}"; do
    # Every node has a session of its own, so this reaches what it started and nothing else.
    kill -KILL -- "-$pid" 2>/dev/null || true
  done
  wait "${pids[@]}" 2>/dev/null || true
  rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# What connects needs the token: only this user can read it.
(umask 077 && "$bin/python" -c 'import secrets; print(secrets.token_hex(32), end="")' >"$folder/token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$folder/token" RAY_USAGE_STATS_ENABLED=0
unset RAY_ADDRESS RAY_AUTH_TOKEN
export PATH="$bin:$PATH" # jobs say `python`

# Head, workers and drivers must agree on how soon a silent node counts as dead.
while IFS= read -r setting; do export "${setting?}"; done < <(
  PYTHONPATH="$root" "$bin/python" -c '
from catdog.runtime.ray_quirks import FAULT_DETECTION_SETTINGS
for name, value in FAULT_DETECTION_SETTINGS.items(): print(f"{name}={value}")'
)

# start NAME ARGUMENT...: one node in a session of its own, its log in the folder.
start() {
  local name=$1
  shift
  # Ports 0, any free one: nodes of one machine would otherwise want the same. An agent that does
  # not get its port takes no jobs, and says so only in its log.
  setsid "$bin/ray" start --block --disable-usage-stats --dashboard-agent-listen-port 0 \
    --min-worker-port 0 --max-worker-port 0 --object-store-memory "$((store_mb * 1000000))" \
    "$@" >"$folder/$name.log" 2>&1 </dev/null 3>&- &
  pids+=($!)
  names[$!]=$name
}

failed() {
  echo "cluster/local.sh: $1" >&3
  tail -n 5 "$folder"/*.log >&3
  exit 1
}

# wait_for_nodes N: until the head counts N nodes, or something that was started has ended.
wait_for_nodes() {
  # In the background, since bash answers signals only between commands.
  "$bin/python" - "$1" "127.0.0.1:$port" "${pids[@]}" <<'PYTHON' 2>/dev/null 3>&- &
import os, sys, time
from ray._raylet import GcsClient
wanted, address, processes = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
deadline = time.monotonic() + 180
while time.monotonic() < deadline:
    for process in processes:
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            raise SystemExit(1)
    try:
        nodes = GcsClient(address=address).get_all_node_info(timeout=5).values()
        if sum(node.state == 0 for node in nodes) >= wanted:
            raise SystemExit(0)
    except Exception:
        pass
    time.sleep(0.5)
raise SystemExit(1)
PYTHON
  waiter=$!
  if wait "$waiter"; then waiter= && return 0; fi
  waiter=
  return 1
}

# Ray's client server cannot be turned off: a free port keeps two clusters out of each other's way.
client_port=$("$bin/python" -c '
import socket
with socket.socket() as free: free.bind(("127.0.0.1", 0)); print(free.getsockname()[1])')

echo "starting a head and $workers workers of $cpus CPUs; Ctrl-C ends them"
# The head runs drivers only: a job that takes it down takes the cluster down.
start head --head --port "$port" --num-cpus 0 --temp-dir "$folder/ray" --include-dashboard true \
  --dashboard-host 127.0.0.1 --dashboard-port "$dashboard_port" --ray-client-server-port "$client_port"
wait_for_nodes 1 || failed "the head does not start"
for ((i = 1; i <= workers; i++)); do
  # One after the other: two that start at once on one machine can pick the same socket names.
  start "worker-$i" --address "127.0.0.1:$port" --num-cpus "$cpus"
  wait_for_nodes "$((i + 1))" || failed "worker $i does not start"
done

if [ -n "$prometheus_port" ]; then
  # The head keeps a list of the nodes and their ports for it.
  cat >"$folder/prometheus.yml" <<YAML
global: {scrape_interval: 5s}
scrape_configs:
  - job_name: ray
    file_sd_configs: [{files: ["$folder/ray/prom_metrics_service_discovery.json"], refresh_interval: 5s}]
YAML
  setsid prometheus --config.file="$folder/prometheus.yml" --storage.tsdb.path="$folder/prometheus" \
    --web.listen-address="127.0.0.1:$prometheus_port" >"$folder/prometheus.log" 2>&1 </dev/null 3>&- &
  pids+=($!)
  names[$!]=Prometheus
fi

cat <<E2
ready. In another terminal:

  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/token
  $catdog submit classify file://$PWD/photos --output file://$PWD/results --address http://127.0.0.1:$dashboard_port

or, with the driver in that terminal:

  $catdog classify photos/ --output results --address 127.0.0.1:$port

The dashboard is at http://127.0.0.1:$dashboard_port and asks for the token in that file.
E2
if [ -n "$prometheus_port" ]; then
  echo "Prometheus is at http://127.0.0.1:$prometheus_port; cluster/grafana.json is a Grafana board over it."
fi
# A node that dies is no reason to end the others: that is what a cluster is for. The head is.
trap 'exit 0' INT # the usual end from here on
exec 2>/dev/null
running=("${pids[@]}")
while kill -0 "${pids[0]}"; do
  wait -n "${running[@]}" || true
  left=()
  for pid in "${running[@]}"; do
    if kill -0 "$pid"; then
      left+=("$pid")
    elif [ "$pid" != "${pids[0]}" ]; then
      echo "${names[$pid]} ended; the others go on"
    fi
  done
  running=("${left[@]}")
done
failed "the head ended"
