#!/bin/bash
# Builds the system extension and loads it with Talos' own packages. Needs Go; downloads modules at the first run.
#
# EXTENSION names a directory with an extension; without it one is built of the release binaries and build/assets.
set -euo pipefail

if ! command -v go >/dev/null; then
	echo "conformance: go is not installed" >&2
	exit 1
fi
cd "$(dirname "$0")"
export GOFLAGS=-mod=readonly
if [[ -z ${EXTENSION:-} ]]; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	target=$(cd ../../.. && pwd)/target/$(rustc -vV | sed -n 's/^host: //p')
	(cd ../../.. && cargo build --quiet -p bootlace-image)
	"$target/debug/bootlace-image" extension --bootlace "$target/release/bootlace" \
		--assets ../../../build/assets -o "$work/extension"
	EXTENSION=$work/extension
fi
export EXTENSION
go test -count=1 -v ./...
