#!/bin/bash
# Holds the agent's machine API, as a plain process, against Talos' own client: an old one, and the one of the
# version that the agent speaks.
#
# MACHINE_API names the example to test; without it one is built. Needs Go; downloads modules at the first run.
set -euo pipefail

readonly TEST_SECONDS=300

source "$(dirname "$0")/../begin.sh"

cd "$(dirname "$0")"
export GOFLAGS=-mod=readonly
if [[ -z ${MACHINE_API:-} ]]; then
	(cd "$root" && cargo build --quiet -p bootlace-agent --example machine_api)
	MACHINE_API=$target/debug/examples/machine_api
fi
export MACHINE_API

for modules in go same; do
	MACHINERY=$modules timeout "$TEST_SECONDS" go test -modfile="$modules.mod" -count=1 "$@" .
done
