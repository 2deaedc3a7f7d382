#!/bin/sh
# Installs the Debian packages that `make bench` compares with, when they are missing, and leaves
# none of their services running. Reads nothing from stdin.
set -eu

needed="knotd:knot nsd:nsd gdnsd:gdnsd named:bind9 dnssec-signzone:bind9-utils dnsperf:dnsperf taskset:util-linux strace:strace"
PATH="$PATH:/usr/sbin:/sbin"
missing=""
for pair in $needed; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" -ne 0 ]; then
    echo "Missing:$missing (Debian names). Install them as root, and disable their services." >&2
    exit 1
fi
echo "Installing:$missing"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # one word per package
install() { apt-get install -y -q --no-install-recommends $missing </dev/null; }
install >/dev/null 2>&1 || { apt-get update -q </dev/null; install; }
if command -v systemctl >/dev/null 2>&1; then
    for service in $missing; do
        systemctl disable --now "$service" >/dev/null 2>&1 || true
    done
fi
