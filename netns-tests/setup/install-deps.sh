#!/bin/sh
# Installs the Debian packages that are missing for building, testing and the lab; does nothing,
# without network and without privilege, when all programs are there. Reads nothing from stdin.
set -eu

# program:package
needed="
nats-server:nats-server
ip:iproute2
nft:nftables
dig:bind9-dnsutils
ping:iputils-ping
tcpdump:tcpdump
strace:strace
python3:python3
cc:gcc
make:make
git:git
"

PATH="$PATH:/usr/sbin:/sbin"
missing=""
for pair in $needed; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"

if ! command -v cargo >/dev/null 2>&1; then
    echo "Missing: cargo. Install Rust 1.89 or newer, for example with https://rustup.rs." >&2
    exit 1
fi
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "Missing:$missing (Debian names). Install them with this system's package manager." >&2
    exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
    as_root=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    echo "Missing:$missing. Run as root: apt-get install -y --no-install-recommends$missing" >&2
    exit 1
fi

echo "Installing:$missing"
export DEBIAN_FRONTEND=noninteractive
install() {
    # shellcheck disable=SC2086 # one word per package, and no word at all for root
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends $missing </dev/null
}
# The lists may be old or absent: refresh them only when the first try fails.
install >/dev/null 2>&1 || { $as_root apt-get update -q </dev/null; install; }

# The package starts a server of its own on port 4222; the lab starts its own ones.
case "$missing" in
*nats-server*)
    command -v systemctl >/dev/null 2>&1 &&
        $as_root systemctl disable --now nats-server >/dev/null 2>&1 || true
    ;;
esac
