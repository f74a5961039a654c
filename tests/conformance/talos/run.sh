#!/bin/bash
# Boots a stick of `--base talos` with Talos' own first program (cmd init of its source), which mounts the extensions
# that were appended to the initramfs. What follows it is busybox instead of machined: it looks at what is there.
# Needs Go, QEMU and Debian's backports kernel (Talos mounts overlays in a way of Linux 6.8); downloads at the first run.
set -euo pipefail

TALOS=v1.13.7
PACKAGE=linux-image-6.12.111+deb12-cloud-amd64

source "$(dirname "$0")/../begin.sh"
bin=$target/release
cache=$root/build/talos-init
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
mkdir -p "$cache"

# Talos' first program, from its source as it is. Its module names the machinery beside it.
if [[ ! -x $cache/init-$TALOS ]]; then
	source() { cd /tmp && GOFLAGS=-mod=mod go mod download -json "$1@$TALOS" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p'; }
	cp -r "$(source github.com/siderolabs/talos)" "$work/talos"
	chmod -R u+w "$work/talos"
	rm -rf "$work/talos/go.work" "$work/talos/pkg/machinery"
	cp -r "$(source github.com/siderolabs/talos/pkg/machinery)" "$work/talos/pkg/machinery"
	chmod -R u+w "$work/talos"
	(cd "$work/talos" && CGO_ENABLED=0 GOWORK=off GOFLAGS=-mod=mod GOAMD64=v1 \
		go build -trimpath -ldflags '-s -w' -o "$cache/init-$TALOS" ./internal/app/init)
fi
if [[ ! -d $cache/$PACKAGE ]]; then
	(cd "$work" && apt-get download -qq "$PACKAGE" && dpkg -x "$PACKAGE"_*.deb "$work/kernel")
	mv "$work/kernel" "$cache/$PACKAGE"
fi
release=${PACKAGE#linux-image-}
kernel=$cache/$PACKAGE/boot/vmlinuz-$release

# The stock initramfs: a root file system, and who mounts it. Debian's kernel has as modules what Talos' has built in.
mkdir -p "$work"/root/{bin,sbin,etc,dev,proc,sys,run,tmp,system,var,usr/local,usr/lib/firmware}
install -m 755 /bin/busybox "$work/root/bin/busybox"
install -m 755 /bin/busybox "$work/root/sbin/init"
touch "$work/root/etc/extensions.yaml"
echo '::sysinit:/bin/busybox sh /etc/check' >"$work/root/etc/inittab"
cat >"$work/root/etc/check" <<'CHECK'
exec > /dev/console 2>&1
b=/bin/busybox
echo "check: layers $($b grep -c image: /etc/extensions.yaml): $($b sed -n 's/^ *name: //p' /etc/extensions.yaml | $b tr '\n' ' ')"
echo "check: config $($b stat -c %a /usr/local/etc/talos/config.yaml) $($b sha256sum /usr/local/etc/talos/config.yaml)"
echo "check: service $($b ls /usr/local/etc/containers)"
echo "check: binary $($b sha256sum /usr/local/lib/containers/bootlace/bootlace)"
echo "check: runs $($b chroot /usr/local/lib/containers/bootlace /bootlace --version)"
echo "check: cmdline $($b cat /proc/cmdline)"
echo "check: ends"
$b poweroff -f
CHECK
mkdir -p "$work"/stock/{mods,dev,proc,sys,run,root,layers}
mksquashfs "$work/root" "$work/stock/rootfs.sqsh" -all-root -quiet -no-progress -comp zstd
install -m 755 "$cache/init-$TALOS" "$work/stock/talos-init"
install -m 755 /bin/busybox "$work/stock/busybox"
for module in fs/configfs/configfs fs/efivarfs/efivarfs drivers/block/loop fs/squashfs/squashfs fs/overlayfs/overlay; do
	xz -dc "$cache/$PACKAGE/lib/modules/$release/kernel/$module.ko.xz" >"$work/stock/mods/$(basename $module).ko"
done
cat >"$work/stock/init" <<'INIT'
#!/busybox sh
for module in configfs efivarfs loop squashfs overlay; do /busybox insmod /mods/$module.ko; done
exec /talos-init
INIT
chmod 755 "$work/stock/init"
mknod "$work/stock/dev/console" c 5 1
(cd "$work/stock" && find . | LC_ALL=C sort | cpio --quiet -o -H newc) | zstd -q -o "$work/initramfs-amd64.xz"

printf 'version: v1alpha1\nmachine:\n  type: worker\n' >"$work/config.yaml"
"$bin/bootlace-image" usb --base talos --kernel "$kernel" --initramfs "$work/initramfs-amd64.xz" \
	--machine-config "$work/config.yaml" --bootlace "$bin/bootlace" --assets "$root/build/assets" -o "$work/stick.img"

boot() {
	timeout 120 qemu-system-x86_64 -machine q35,accel=tcg -cpu max -m 1024 -nodefaults -nographic -no-reboot \
		-drive if=none,id=stick,format=raw,snapshot=on,file="$work/stick.img" -device qemu-xhci \
		-device usb-storage,drive=stick,bootindex=0 -serial stdio "$@" </dev/null 2>&1 | tr -d '\r' >"$work/log"
}
has() {
	if ! grep -qF -- "$1" "$work/log"; then
		echo "FAIL: no \"$1\" on the console:" >&2
		tail -n 40 "$work/log" >&2
		exit 1
	fi
	echo "  $1"
}
hash() { sha256sum "$1" | cut -d ' ' -f 1; }
cp /usr/share/OVMF/OVMF_VARS_4M.fd "$work/vars.fd"
uefi=(-drive if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd
	-drive if=pflash,format=raw,unit=1,file="$work/vars.fd")
for firmware in bios uefi; do
	echo "$firmware:"
	if [[ $firmware == bios ]]; then boot; else boot "${uefi[@]}"; fi
	has "booting Talos $TALOS"
	has "enabling system extension bootlace"
	has "enabling system extension embedded-config"
	has "check: layers 2: bootlace embedded-config"
	has "check: config 600 $(hash "$work/config.yaml")"
	has "check: service bootlace.yaml"
	has "check: binary $(hash "$bin/bootlace")"
	has "check: runs bootlace "
	has "talos.platform=metal"
	has "check: ends"
done
echo "PASS: Talos' init starts the stick, with the extension and the configuration"
