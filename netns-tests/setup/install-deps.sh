#!/bin/sh
# Installs the Debian packages that are missing for building, testing and the lab, and makes a
# Python with the packages of the two requirements.txt below the target directory; does
# nothing, without network and without privilege, when all is there. Reads nothing from stdin.
set -eu

root="$(cd "$(dirname "$0")/../.." && pwd)"
python="${CARGO_TARGET_DIR:-$root/target}/python"
requirements="$root/docs/examples/requirements.txt $root/netns-tests/setup/requirements.txt"

# program:package
needed="
nats-server:nats-server
ip:iproute2
nft:nftables
dig:bind9-dnsutils
named:bind9
dnssec-keygen:bind9-utils
knotd:knot
kdig:knot-dnsutils
kzonecheck:knot-dnssecutils
ldns-verify-zone:ldnsutils
unbound:unbound
nsd:nsd
gdnsd:gdnsd
dnsperf:dnsperf
curl:curl
ping:iputils-ping
tcpdump:tcpdump
strace:strace
bird:bird2
keepalived:keepalived
networkctl:systemd
dbus-daemon:dbus-daemon
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
python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || missing="$missing python3-venv"
[ -x /usr/lib/frr/zebra ] || missing="$missing frr"
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"

if ! command -v cargo >/dev/null 2>&1; then
    echo "Missing: cargo. Install Rust 1.89 or newer, for example with https://rustup.rs." >&2
    exit 1
fi

# The packages are installed once: the copy of the requirements is written last.
make_python() {
    # shellcheck disable=SC2086 # two words
    wanted="$(cat $requirements)"
    [ "$wanted" = "$(cat "$python/requirements.txt" 2>/dev/null)" ] && return 0
    echo "Making a Python for the worked example of the protocol and a newer server: $python"
    rm -rf "$python"
    python3 -m venv "$python" </dev/null
    for file in $requirements; do
        "$python/bin/pip" install --quiet --disable-pip-version-check -r "$file" </dev/null
    done
    echo "$wanted" >"$python/requirements.txt"
}

if [ -z "$missing" ]; then
    make_python
    exit 0
fi

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

# These packages start servers of their own, on ports that may be somebody else's; the lab and the
# tests start theirs.
for package in nats-server bind9:named knot nsd gdnsd unbound bird2:bird keepalived frr; do
    case "$missing " in
    *" ${package%%:*} "*)
        command -v systemctl >/dev/null 2>&1 &&
            $as_root systemctl disable --now "${package#*:}" >/dev/null 2>&1 || true
        ;;
    esac
done

make_python
