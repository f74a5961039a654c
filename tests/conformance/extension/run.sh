#!/bin/bash
# Builds the system extension and loads it with Talos' own packages. Needs Go; downloads modules at the first run.
#
# EXTENSION names a directory with an extension; without it one is built of the release binaries and build/assets.
set -euo pipefail

source "$(dirname "$0")/../begin.sh"
cd "$(dirname "$0")"
export GOFLAGS=-mod=readonly
if [[ -z ${EXTENSION:-} ]]; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	(cd "$root" && cargo build --quiet -p bootlace-image)
	"$target/debug/bootlace-image" extension --bootlace "$target/release/bootlace" \
		--assets "$root/build/assets" -o "$work/extension"
	EXTENSION=$work/extension
fi
export EXTENSION
go test -count=1 -v ./...
