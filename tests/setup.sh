#!/usr/bin/env bash
# Installs what building and testing need from Debian's archive, and a Redfish service from PyPI into build/. Does
# nothing when all is there. Arguments are more packages.
set -euo pipefail

packages=(
    gcc libc6-dev                                   # linking, and the few C parts of crates
    qemu-system-x86 qemu-utils ovmf ipxe ipxe-qemu  # the machines and their firmware
    iproute2 nftables dnsmasq-base                           # the virtual network and its plain DHCP server
    linux-image-cloud-amd64 linux-image-amd64       # the kernels that machines boot
    curl                                            # by which a BMC's simulator reaches the power switch
    openipmi ipmitool                               # a BMC to talk to
    python3-venv                                    # another one, which speaks Redfish
    busybox-static                                  # what a laptop in a test flashes a stick with
    skopeo umoci                                    # to read container images with
    grub-pc-bin grub-efi-amd64-bin grub-common osslsigncode e2fsprogs squashfs-tools openssl  # sticks that boot under BIOS and UEFI
    fdisk mtools dosfstools syslinux syslinux-common systemd-boot-efi binutils  # disk images without root
    "$@"
)

missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "setup: installing ${missing[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        echo "setup: this needs root; run: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# OpenStack's emulator of a Redfish service; tests without it say so.
sushy=$(dirname "$0")/../build/sushy
if [ ! -x "$sushy/bin/sushy-emulator" ]; then
    echo "setup: installing sushy-tools"
    if ! { python3 -m venv "$sushy" && "$sushy/bin/pip" install -q --disable-pip-version-check sushy-tools==2.2.0; }; then
        echo "setup: sushy-tools cannot be had: the tests with it are left out" >&2
    fi
fi
