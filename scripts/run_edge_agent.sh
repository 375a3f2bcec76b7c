#!/bin/sh
# Starts the agent's two roles on this machine without systemd, in the foreground; Ctrl-C stops both, and leaves the apps running.
# As root each app gets a user of its own; as anybody else all run as you, for trying things out.
#
#   FARSHORE_TOKEN=… sh scripts/run_edge_agent.sh [FOLDER]
#
# FOLDER keeps identity, journal and apps; /var/lib/farshore for root, ~/.local/share/farshore-agent otherwise.
# FARSHORE_AGENT names the program, when it is not in the PATH.
set -eu

agent=${FARSHORE_AGENT:-farshore-agent}
command -v "$agent" >/dev/null || { echo "$agent is not there: install the package, or build it with cargo build -p farshore-agent" >&2; exit 1; }
if [ "$(id -u)" = 0 ]; then
    folder=${1:-/var/lib/farshore} unprivileged=''
else
    folder=${1:-${XDG_DATA_HOME:-$HOME/.local/share}/farshore-agent} unprivileged=--unprivileged
fi
mkdir -p "$folder/apps"
chmod 700 "$folder"
socket=$folder/runner.sock

# shellcheck disable=SC2086 # none or one option
"$agent" runner --socket "$socket" --apps-dir "$folder/apps" --cgroup '' $unprivileged &
runner=$!
"$agent" run --state-dir "$folder/agent" --runner-socket "$socket" &
run=$!
trap 'kill "$run" "$runner" 2>/dev/null || true' INT TERM
# Whichever ends first takes the other along.
while kill -0 "$run" 2>/dev/null && kill -0 "$runner" 2>/dev/null; do sleep 1; done
kill "$run" "$runner" 2>/dev/null || true
wait "$run" || code=$?
wait "$runner" || code=${code:-$?}
exit "${code:-0}"
