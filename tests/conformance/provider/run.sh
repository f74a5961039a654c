#!/bin/bash
# The Go provider, as it is, between our hub, which is its Omni, and a machine in QEMU with our agent.
#
# Needs root, Go, QEMU, what `make images` builds, and the provider's source: PROVIDER_SOURCE names a checkout; without
# it the Go module proxy is asked. Where there is none, the test is not run. Downloads at the first run.
set -euo pipefail

readonly MODULE=siderolabs/omni-infra-provider-bare-metal VERSION=v0.12.0
readonly BUILD_SECONDS=1800 DOWNLOAD_SECONDS=120

source "$(dirname "$0")/../begin.sh"
cache=$root/build/go-provider
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT

if [[ -n ${PROVIDER_SOURCE:-} && ! -d $PROVIDER_SOURCE/cmd/provider ]]; then
	echo "conformance: PROVIDER_SOURCE: $PROVIDER_SOURCE is no checkout of $MODULE" >&2
	exit 1
fi

# Its source, in $work/source.
fetch() {
	if [[ -n ${PROVIDER_SOURCE:-} ]]; then
		cp -r "$PROVIDER_SOURCE" "$work/source"
		return
	fi
	local directory
	directory=$(cd "$work" && GOFLAGS=-mod=mod timeout "$DOWNLOAD_SECONDS" go mod download -json "github.com/$MODULE@$VERSION" |
		tee "$work/proxy" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
	[[ -n $directory ]] && cp -r "$directory" "$work/source"
}

# It serves the iPXE that it was built with, and puts its script in the place of a mark there. No iPXE is built here:
# firmware that is an iPXE already takes a script for one. It is what the provider's own does, in the words that QEMU's
# iPXE of 2019 knows (no `iflinkwait`); the mark is behind it.
stand_in() {
	mkdir -p "$1/amd64/kpxe" "$1/arm64"
	{
		cat <<'SCRIPT'
#!ipxe
:again
chain --replace http://${proxydhcp/next-server}:50042/ipxe/boot.ipxe?uuid=${uuid}&mac=${net0/mac:hexhyp}&domain=${domain}&hostname=${hostname}&serial=${serial}&arch=${buildarch} ||
sleep 1
goto again
# *PLACEHOLDER START*
SCRIPT
		for ((i = 0; i < 100; i++)); do printf '#%078d\n' "$i"; done
		printf '# *PLACEHOLDER END*\n'
	} >"$work/ipxe"
	for file in amd64/ipxe.efi amd64/snp.efi amd64/kpxe/undionly.kpxe.bin arm64/ipxe.efi arm64/snp.efi; do
		cp "$work/ipxe" "$1/$file"
	done
	# zbin's directives: copy it all, at offset 0, aligned to 1.
	local size
	size=$(printf '%08x' "$(stat -c %s "$work/ipxe")")
	printf "COPY\0\0\0\0\\x${size:6:2}\\x${size:4:2}\\x${size:2:2}\\x${size:0:2}\1\0\0\0" >"$1/amd64/kpxe/undionly.kpxe.zinfo"
}

program=$cache/provider-$VERSION
if [[ ! -x $program ]]; then
	if ! fetch; then
		echo "conformance: NOT RUN: the Go provider's source is not to be had:"
		cat "$work/proxy"
		echo "conformance: PROVIDER_SOURCE may name a checkout of $MODULE $VERSION"
		exit 0
	fi
	chmod -R u+w "$work/source"
	stand_in "$work/source/internal/provider/ipxe/data"
	(cd "$work/source" && CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off timeout "$BUILD_SECONDS" \
		go build -trimpath -ldflags '-s -w' -o "$work/provider" ./cmd/provider)
	mkdir -p "$cache"
	mv "$work/provider" "$program"
fi
echo "Go provider: $("$program" --version), $(stat -c %s "$program") bytes"

cd "$root"
GO_PROVIDER=$program cargo test --quiet -p testbed --test go_provider -- --ignored --nocapture
