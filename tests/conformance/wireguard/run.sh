#!/bin/bash
# Holds our end of SideroLink's tunnel against wireguard-go, and our WireGuard over gRPC against SideroLink's own.
#
# SIDEROLINK_ECHO names the example to test; without it one is built. Needs Go; downloads modules at the first run.
set -euo pipefail

readonly TEST_SECONDS=300

source "$(dirname "$0")/../begin.sh"

cd "$(dirname "$0")"
export GOFLAGS=-mod=readonly
if [[ -z ${SIDEROLINK_ECHO:-} ]]; then
	(cd "$root" && cargo build --quiet -p siderolink --example echo)
	SIDEROLINK_ECHO=$target/debug/examples/echo
fi
export SIDEROLINK_ECHO

timeout "$TEST_SECONDS" go test -count=1 "$@" .
