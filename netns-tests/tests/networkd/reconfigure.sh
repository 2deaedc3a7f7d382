# systemd-networkd on a bus of its own, as in a container without udev: takes over interface $2 with
# the files of directory $1, and is then told to set it up once more, at which it removes what it did
# not make. Wants mount and PID namespaces of its own, in which everything it starts ends with it.
set -eu
mount -t tmpfs none /run
mount -t tmpfs none /etc/systemd
mount -t sysfs -o ro none /sys
mkdir -p /run/dbus /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
mkdir -p /etc/systemd/network /etc/systemd/networkd.conf.d
chown -R systemd-network: /run/systemd/netif
echo lxc > /run/systemd/container
cp "$1"/*.network /etc/systemd/network
find "$1" -name '*.conf' -exec cp {} /etc/systemd/networkd.conf.d ';'

# $1 text, $2 file, $3 how often it has to be there.
await() {
    n=0
    until [ "$(grep -c "$1" "$2" 2>&1)" -ge "$3" ]; do
        n=$((n + 1))
        [ $n -lt 200 ] || { echo "not $3 times in $2: $1"; tail -n 20 "$2"; exit 1; }
        sleep 0.1
    done
}

dbus-daemon --config-file="$1/bus.xml" --nofork --print-address > /run/bus.log 2>&1 &
await unix: /run/bus.log 1
SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console /lib/systemd/systemd-networkd > /run/log 2>&1 &
await "$2: State changed: configuring -> configured" /run/log 1
networkctl reconfigure "$2"
await "$2: State changed: configuring -> configured" /run/log 2
