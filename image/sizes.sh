#!/bin/bash
# Prints how large everything is that is shipped, with its limit: sizes.sh BINARIES BUILD. image/tests/sizes.rs and
# image/tests/container.rs hold them. sizes.sh arm64 DIRECTORY: what `make arm64` builds; fails when something is over.
set -euo pipefail

bin=$1 build=$2

row() { # what, limit in bytes, files and directories
	local what=$1 limit=$2 bytes
	shift 2
	bytes=$(find "$@" -type f -printf '%s\n' | awk '{sum += $1} END {print sum + 0}')
	awk -v what="$what" -v bytes="$bytes" -v limit="$limit" 'BEGIN {
		printf "%-34s %12d %8.2f MB   limit %7.2f MB%s\n", what, bytes, bytes / 1e6, limit / 1e6, (bytes > limit ? "   OVER" : "")
	}'
}

mib=$((1 << 20))

arm64() { # directory
	row 'arm64: appliance'                16000000        "$1/bootlace"
	row 'arm64: agent'                    $((6 * mib))    "$1/bootlace-agent"
	row 'arm64: kernel, initramfs'        $((40 * mib))   "$1/assets"
	row 'arm64: Talos extension, unpacked' $((60 * mib))  "$1/extension"
	row 'arm64: Talos extension, OCI'     $((60 * mib))   "$1/bootlace-extension.tar"
	row 'container image, amd64 and arm64' $((60 * mib))  "$1/bootlace-oci.tar"
}
if [ "$bin" = arm64 ]; then
	rows=$(arm64 "$build")
	echo "$rows"
	[[ $rows != *OVER* ]]
	exit
fi

row 'appliance'                      16000000        "$bin/bootlace"
row 'agent'                          $((6 * mib))    "$bin/bootlace-agent"
row 'agent image: kernel, initramfs' $((40 * mib))   "$build"/metal/kernel-amd64 "$build"/metal/initramfs-metal-amd64.xz
row 'container image'                $((60 * mib))   "$build/bootlace-oci.tar"
row 'Talos extension, unpacked'      $((60 * mib))   "$build/extension"
row 'Talos extension, OCI'           $((60 * mib))   "$build/bootlace-extension.tar"
row 'slot of a stick'                $((44 * mib))   "$build/bootlace.slot"
row 'stick'                          128000000       "$build/bootlace.img"
row 'stick for Secure Boot'          128000000       "$build/secure.img"
