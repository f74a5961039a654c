#!/bin/bash
# Holds both ends of the agent's tunnel, as plain processes, against what the Go provider and Talos' metal agent
# are made of.
#
# TUNNEL names the example to test; without it one is built. Needs Go; downloads modules at the first run.
set -euo pipefail

readonly TEST_SECONDS=300

source "$(dirname "$0")/../begin.sh"

cd "$(dirname "$0")"
export GOFLAGS=-mod=readonly
if [[ -z ${TUNNEL:-} ]]; then
	(cd "$root" && cargo build --quiet -p bootlace-agent --example tunnel)
	TUNNEL=$target/debug/examples/tunnel
fi
export TUNNEL

timeout "$TEST_SECONDS" go test -count=1 "$@" .
