#!/usr/bin/env python3
"""Sends one signed command to the agents of a site and prints their answer.

    pip install -r requirements.txt
    ./command.py --nats tls://nats.osl.example:4222 --site osl --name mira --key mira.seed \
        --tls-ca ca.crt --tls-cert mira.crt --tls-key mira.key \
        --service shop/prod/api --to svg --reason "maintenance in Oslo"

Exit status: 0 accepted, 4 refused, 3 no answer.
"""

import argparse
import asyncio
import base64
import datetime
import json
import os
import ssl
import sys
import time

import nats
import nkeys

CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def ulid():
    """26 characters: 48 bits of milliseconds, 80 random bits, in lower case."""
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    return "".join(CROCKFORD[number >> shift & 31] for shift in range(125, -5, -5))


def canonical(message):
    """RFC 8785, for messages whose names are ASCII and whose numbers are whole."""
    text = json.dumps(message, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def timestamp(moment):
    """RFC 3339 in UTC with exactly three digits after the point."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"


def failover(args, key):
    """The unsigned request: service ARGS.service shall move to ARGS.to."""
    now = datetime.datetime.now(datetime.timezone.utc)
    service = args.service.replace("/", "~")
    body = {"verb": "failover", "services": args.service, "to": args.to}
    if args.plan_hash:
        body["plan_hash"] = args.plan_hash
    return {
        "v": 1,
        "min_reader": 1,
        "id": f"{args.site}.{ulid()}",
        "kind": "command",
        "subject": f"nett.l.cmd.{args.site}.failover.service.{service}",
        "site": args.site,
        "issued_at": timestamp(now),
        "expires_at": timestamp(now + datetime.timedelta(seconds=60)),
        "operator": {
            "name": args.name,
            "key": key.public_key.decode(),
            "reason": args.reason,
        },
        "body": body,
    }


def sign(request, key):
    """Adds `sig`: ed25519 over the canonical form of everything else."""
    value = base64.urlsafe_b64encode(key.sign(canonical(request))).rstrip(b"=").decode()
    sig = [{"by": "operator", "key": request["operator"]["key"], "value": value}]
    return {**request, "sig": sig}


async def complain(error):
    print(f"nats: {error!r}", file=sys.stderr)


async def send(args, seed, request):
    tls = None
    if args.tls_ca:
        tls = ssl.create_default_context(cafile=args.tls_ca)
        tls.load_cert_chain(args.tls_cert, args.tls_key)
    client = await nats.connect(
        args.nats,
        nkeys_seed_str=seed,
        inbox_prefix=b"_INBOX.op",
        tls=tls,
        connect_timeout=5,
        allow_reconnect=False,
        error_cb=complain,
    )
    try:
        answer = await client.request(request["subject"], canonical(request), timeout=5)
        return json.loads(answer.data)
    finally:
        await client.close()


def main():
    parser = argparse.ArgumentParser()
    for name in ["nats", "site", "name", "key", "service", "to", "reason"]:
        parser.add_argument(f"--{name}", required=True)
    for name in ["plan-hash", "tls-ca", "tls-cert", "tls-key"]:
        parser.add_argument(f"--{name}")
    args = parser.parse_args()
    with open(args.key, encoding="ascii") as file:
        seed = file.read().strip()
    key = nkeys.from_seed(bytearray(seed.encode()))
    request = sign(failover(args, key), key)
    try:
        answer = asyncio.run(asyncio.wait_for(send(args, seed, request), 15))
    except Exception as error:  # whatever it was, nobody said yes
        # The same request (the same id) may be sent again until it expires.
        print(f"no answer about {request['id']}: {error!r}", file=sys.stderr)
        return 3
    print(json.dumps(answer))
    return 0 if answer["accepted"] else 4


if __name__ == "__main__":
    sys.exit(main())
