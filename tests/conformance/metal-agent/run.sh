#!/bin/bash
# Talos' own metal agent, as it is, on a machine in QEMU that an appliance with `agent.kind = "talos"` looks after.
#
# Needs root, Go, QEMU and what `make images` builds; downloads modules at the first run.
set -euo pipefail

readonly AGENT=github.com/siderolabs/talos-metal-agent
# The schematic of the extensions that the agent's image has, without kernel arguments; the appliance's default version.
readonly SCHEMATIC=e1f4d5ff042cbfd1de63dabd6e7412f60807cf6ba3522beb8d935ff92042fe30 TALOS=v1.13.7
readonly BUILD_SECONDS=900

source "$(dirname "$0")/../begin.sh"
cd "$(dirname "$0")"
export GOFLAGS=-mod=readonly
bin=$target/release
cache=$root/build/metal-agent
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

version=$(go list -m -f '{{.Version}}' "$AGENT")
program=$cache/talos-metal-agent-$version
if [[ ! -x $program ]]; then
	mkdir -p "$cache"
	CGO_ENABLED=0 GOAMD64=v1 timeout "$BUILD_SECONDS" \
		go build -trimpath -ldflags '-s -w' -o "$work/agent" "$AGENT/cmd/talos-metal-agent"
	mv "$work/agent" "$program"
fi
echo "metal agent: $version, $(stat -c %s "$program") bytes"

# Only what Image Factory would have: Talos for clusters, and Talos with the metal agent. No agent of ours.
# Debian's generic kernel, which has the drivers of BMCs.
kernel=$(ls /lib/modules | grep -E -- '[0-9]-amd64$' | sort -V | tail -n 1)
images=$work/assets/image/$SCHEMATIC/$TALOS
mkdir -p "$images"
cp -r "$root"/build/assets/image/. "$work/assets/image/"
cp "/boot/vmlinuz-$kernel" "$images/kernel-amd64"
"$bin/bootlace-image" initramfs --init "${STANDIN:-$bin/standin-os}" --modules "/lib/modules/$kernel" \
	--drivers virtio,ipmi_si,ipmi_devintf \
	--file "/usr/local/lib/containers/metal-agent/talos-metal-agent=$program" -o "$images/initramfs-amd64.xz"

cd "$root"
METAL_AGENT_ASSETS=$work/assets cargo test --quiet -p testbed --test metal_agent -- --ignored --nocapture --test-threads=1
