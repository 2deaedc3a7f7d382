#!/bin/sh
# Classes of an inter-site link whose failover traffic Nett marks with `class = "1:20"`.
#
# Usage: htb.sh INTERFACE KBIT
# KBIT is what the link carries in kilobits per second, or a little less: the queue has to be here
# and not behind the interface. Run it at both ends, on the border; Nett leaves qdiscs alone.
set -eu
interface=$1
all=$2
control=$((all * 3 / 4))
failover=$((all - control))

# An HTB cannot be changed as a whole; what another one held is dropped.
tc qdisc del dev "$interface" root 2>/dev/null || true
tc qdisc add dev "$interface" root handle 1: htb default 10
tc class add dev "$interface" parent 1: classid 1:1 htb rate "${all}kbit"
# Whatever is not marked: BFD, the bus, replication, and what crosses although nothing has failed.
tc class add dev "$interface" parent 1:1 classid 1:10 \
    htb rate "${control}kbit" ceil "${all}kbit" prio 0
# Failover traffic: a share that is its own, and what the others leave.
tc class add dev "$interface" parent 1:1 classid 1:20 \
    htb rate "${failover}kbit" ceil "${all}kbit" prio 1
tc qdisc add dev "$interface" parent 1:10 handle 10: pfifo limit 100
tc qdisc add dev "$interface" parent 1:20 handle 20: pfifo limit 100
