#!/usr/bin/env bash
# Installs what building and testing need from Debian's archive. Does nothing when all is there.
set -euo pipefail

packages=(
    gcc libc6-dev                                   # linking, and the few C parts of crates
    qemu-system-x86 qemu-utils ovmf ipxe ipxe-qemu  # the machines and their firmware
    iproute2 nftables dnsmasq-base                           # the virtual network and its plain DHCP server
    linux-image-cloud-amd64 linux-image-amd64       # the kernels that machines boot
    openipmi ipmitool                               # a BMC to talk to
    skopeo umoci                                    # to read container images with
    grub-pc-bin grub-efi-amd64-bin grub-common sbsigntool e2fsprogs squashfs-tools openssl  # sticks that boot under BIOS and UEFI
    fdisk mtools dosfstools syslinux syslinux-common systemd-boot-efi binutils  # disk images without root
)

missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
echo "setup: installing ${missing[*]}"
if [ "$(id -u)" -ne 0 ]; then
    echo "setup: this needs root; run: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
