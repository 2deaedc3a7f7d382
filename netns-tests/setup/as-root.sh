#!/bin/sh
# Runs a command where it may create network namespaces: as it is for root, else as root of a new
# user namespace with a network, a mount tree, processes and a /run of its own. What it creates
# there ends with the command, so `make lab` (which leaves the lab running) needs the real root.
set -eu

if [ "$(id -u)" -eq 0 ]; then
    exec "$@"
fi
if ! unshare --user --map-root-user --net --mount true 2>/dev/null; then
    echo "Missing: privilege. This system lets an ordinary user make no network namespaces;" \
        "run as root." >&2
    exit 1
fi
# shellcheck disable=SC2016 # the inner shell expands it
exec unshare --user --map-root-user --net --mount --propagation private \
    --pid --fork --kill-child --mount-proc sh -c '
    mount -t tmpfs tmpfs /run && ip link set lo up && exec "$@"
' sh "$@"
