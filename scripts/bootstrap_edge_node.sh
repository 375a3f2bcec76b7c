#!/bin/sh
# Puts the Farshore agent on this device: checks what it needs, installs baseline packages and the agent's package,
# gives it its claim token, and starts its units. Works on Debian, Ubuntu, Raspberry Pi OS and Jetson's Ubuntu. May be run again.
#
#   printf %s "$TOKEN" | sudo sh bootstrap_edge_node.sh --token-stdin [--labels site=riga,model=pi-4] [--package FILE.deb]
#   sh bootstrap_edge_node.sh --check          only say whether this device will do
#
# A control plane serves this file with its own address and the digests of its packages filled in below; a copy from the source
# tree installs the package that --package names.
set -eu

FARSHORE_INSTALL_URL=${FARSHORE_INSTALL_URL:-}
FARSHORE_PACKAGES=${FARSHORE_PACKAGES:-}
# --- filled in by the control plane ---

MIN_MEMORY_MB=128
MIN_DISK_MB=300
CLAIM_SECONDS=60

usage() { sed -n '2,9p' "$0" | sed 's/^# \{0,1\}//'; }
say() { printf '%s\n' "$*"; }
fail() { printf 'farshore: %s\n' "$*" >&2; exit 1; }

token='' labels='' package='' check_only=no start=yes
while [ $# -gt 0 ]; do
    case $1 in
        --check) check_only=yes ;;
        --no-start) start=no ;;
        --token-stdin) token=$(head -c 4096) ;;
        --token-file) [ $# -gt 1 ] || fail "--token-file needs a file"; shift; token=$(head -c 4096 "$1") || fail "can't read $1" ;;
        --labels) [ $# -gt 1 ] || fail "--labels needs key=value,…"; shift; labels=$1 ;;
        --package) [ $# -gt 1 ] || fail "--package needs a .deb file"; shift; package=$1 ;;
        -h|--help) usage; exit 0 ;;
        *) fail "unknown option $1; --help lists them" ;;
    esac
    shift
done
# Both end up in a file of NAME=value lines: a line break would add a setting.
case $token$labels in *"
"*) fail "the token and the labels are one line each" ;; esac

# All that is wrong is told at once.
problems=''
problem() { problems="$problems
  - $*"; }

[ "$(uname -s)" = Linux ] || problem "this is $(uname -s); the agent runs on Linux"
case $(uname -m) in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    *) arch=''; problem "the processor is $(uname -m); there are packages for x86_64 and aarch64 (a 32-bit Raspberry Pi OS wants its 64-bit edition)" ;;
esac
[ -d /run/systemd/system ] || problem "systemd does not run here; scripts/run_edge_agent.sh starts the agent without it"
command -v dpkg >/dev/null 2>&1 || problem "dpkg is missing: this is no Debian or relative of it"
memory_mb=$(($(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo) / 1024))
[ "$memory_mb" -ge $MIN_MEMORY_MB ] || problem "$memory_mb MB of memory; at least $MIN_MEMORY_MB are needed"
disk_mb=$(($(df -Pk /var/lib | sed -n '2s/^[^ ]* *[0-9]* *[0-9]* *\([0-9]*\) .*/\1/p') / 1024))
[ "$disk_mb" -ge $MIN_DISK_MB ] || problem "$disk_mb MB are free in /var/lib; at least $MIN_DISK_MB are needed"
if [ $check_only = no ]; then
    [ "$(id -u)" = 0 ] || problem "this needs root: run it with sudo"
    [ -n "$package" ] || [ -n "$FARSHORE_PACKAGES" ] || problem "there is nothing to install: name a package with --package, or get this file from your control plane"
fi
[ -z "$problems" ] || fail "this device will not do:$problems"

model=$(tr -d '\0' 2>/dev/null </proc/device-tree/model || true)
say "This device will do: ${model:-$(uname -m)}, $memory_mb MB of memory, $disk_mb MB free."
[ "$(date +%Y)" -ge 2026 ] || say "The clock says $(date -u); the agent copes, and sets its own time by the control plane's certificates."
[ $check_only = no ] || exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

missing=''
command -v curl >/dev/null 2>&1 || missing="$missing curl"
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"
if [ -n "$missing" ] && [ -z "$package" ]; then
    say "Installing$missing."
    # shellcheck disable=SC2086 # a list of names
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $missing
fi

if [ -z "$package" ]; then
    line=$(printf '%s\n' "$FARSHORE_PACKAGES" | grep "_$arch\.deb$" | tail -n 1) || true
    [ -n "$line" ] || fail "the control plane has no package for $arch"
    digest=${line%% *} file=${line##* }
    package=$work/$file
    say "Fetching $file."
    # What counts is the digest: the control plane's certificate need not be known to this device yet.
    curl -fsSk --retry 5 --retry-connrefused --max-filesize 104857600 -o "$package" "$FARSHORE_INSTALL_URL/install/$file"
    printf '%s  %s\n' "$digest" "$package" | sha256sum -c --quiet - || fail "$file is not what the control plane announced; nothing was installed"
fi

if [ -n "$token" ]; then
    install -d -m 0755 /etc/farshore
    umask 077
    { printf 'FARSHORE_TOKEN=%s\n' "$token"; [ -z "$labels" ] || printf 'FARSHORE_LABELS=%s\n' "$labels"; } >/etc/farshore/agent.env.new
    mv /etc/farshore/agent.env.new /etc/farshore/agent.env
    umask 022
fi
say "Installing the agent."
DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i "$package" >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log" >&2; fail "the package could not be installed"; }

[ $start = yes ] || { say "Installed, not started."; exit 0; }
systemctl enable --quiet farshore-agent.service
systemctl restart farshore-runner.service farshore-agent.service
waited=0
until [ -e /var/lib/farshore-agent/identity ]; do
    if [ $waited -ge $CLAIM_SECONDS ]; then
        say "The agent is installed and goes on trying to claim this device. What it says:"
        journalctl -u farshore-agent -n 5 --no-pager -o cat >&2 || true
        exit 1
    fi
    sleep 1
    waited=$((waited + 1))
done
say "This device is claimed. It says:"
farshore-agent status || true
