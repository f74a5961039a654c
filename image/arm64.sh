#!/usr/bin/env bash
# Builds the agent and the appliance for arm64 machines on an amd64 Debian, and gets what their images and tests are made
# of from Debian's archive: arm64.sh DIRECTORY. The host's packages and architectures stay as they are: everything is unpacked
# into DIRECTORY, and what is there is not fetched again.
#
#   kernel/      linux-image-arm64: kernel and modules
#   ipxe/        iPXE of Debian 13; Debian 12 has none for arm64
#   rust/        Debian's rustc for Firefox, where this host's compiler has no standard library for arm64
#   qemu/        qemu-user-static, which runs one program of another architecture
#   assets/      the agent image goes here
#   all/         iPXE and agent images of both architectures go here
#   bootlace-agent, bootlace
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
cd "$1"
here=$PWD
target=aarch64-unknown-linux-gnu

# apt with lists of its own, so that the host's know nothing of another architecture or release.
# What is fetched gets its name when it is there whole.
apt() { # lists, then the tool's words; more options in "${options[@]}"
    local lists=$here/apt/$1 tool=$2
    shift 2
    mkdir -p "$lists/lists/partial" "$lists/cache/archives/partial"
    "$tool" -o APT::Architectures=amd64,arm64 -o APT::Sandbox::User=root -o Dir::State::Lists="$lists/lists" \
        -o Dir::Cache="$lists/cache" "${options[@]}" "$@"
}
options=()
updated=
lists() { # those of this host's release, once
    [ -n "$updated" ] || apt host apt-get -qq update
    updated=yes
}
fetch() { # lists, directory, packages to unpack there...
    local of=$1 into=$2
    shift 2
    rm -rf "$into" debs
    mkdir debs
    (cd debs && apt "$of" apt-get -qq download "$@")
    for deb in debs/*.deb; do dpkg-deb -x "$deb" "$into"; done
    rm -rf debs
}
depends() { # package, pattern: the dependency of that name
    apt host apt-cache depends "$1" | awk -v name="$2" '$1 == "Depends:" && $2 ~ name && !found++ {print $2} END {exit !found}'
}

"$root/tests/setup.sh" gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-system-arm qemu-efi-aarch64 kmod

if [ ! -d kernel ]; then
    echo "arm64: fetching Debian's kernel"
    lists
    image=$(depends linux-image-arm64:arm64 '^linux-image-[0-9]')
    fetch host kernel.new "$image"
    depmod -b "$here/kernel.new" "$(ls kernel.new/lib/modules)"
    mv kernel.new kernel
fi

if [ ! -d ipxe ]; then
    echo "arm64: fetching iPXE"
    # From where this host gets its own packages.
    lists
    archive=$(apt host apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(IDENTIFIER)' 'Created-By: Packages' |
        awk '$2 == "Debian" && $3 == "Packages" && $1 !~ /security/ && !found++ {print $1} END {exit !found}')
    mkdir -p apt
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive trixie main" >apt/trixie.list
    options=(-o Dir::Etc::SourceList="$here/apt/trixie.list" -o Dir::Etc::SourceParts=/dev/null)
    apt trixie apt-get -qq update
    fetch trixie ipxe.new ipxe
    options=()
    mv ipxe.new/usr/lib/ipxe ipxe
    rm -r ipxe.new
fi

if [ ! -d qemu ]; then
    echo "arm64: fetching QEMU for programs"
    lists
    fetch host qemu.new qemu-user-static:amd64
    mv qemu.new qemu
fi

cargo=(cargo)
library=$(cd "$root" && rustc --print target-libdir --target $target)
if [ ! -d "$library" ]; then
    # With rustup: rustup target add aarch64-unknown-linux-gnu
    if [ ! -d rust ]; then
        echo "arm64: fetching a Rust compiler with a standard library for arm64"
        lists
        std=$(depends libstd-rust-web-dev '^libstd-rust-web-[0-9]')
        fetch host rust.new rustc-web "$std" libstd-rust-web-dev:amd64 libstd-rust-web-dev:arm64
        depends "$std" '^libllvm' >rust.new/llvm
        mv rust.new rust
    fi
    "$root/tests/setup.sh" "$(cat rust/llvm)"
    cat >rust/rustc <<'EOF'
#!/bin/sh
usr=$(dirname "$0")/usr
export LD_LIBRARY_PATH="$usr/lib/x86_64-linux-gnu"
exec "$usr/bin/rustc" --sysroot "$usr" "$@"
EOF
    chmod +x rust/rustc
    cargo=(env RUSTC="$here/rust/rustc" cargo)
fi

# A target directory of its own: another compiler would throw away what the host's has built.
cd "$root"
export CARGO_TARGET_DIR=$root/target/arm64 CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
"${cargo[@]}" build --profile agent -p bootlace-agent --target $target
"${cargo[@]}" build --release -p bootlace --target $target
install -m 755 "target/arm64/$target/agent/bootlace-agent" "target/arm64/$target/release/bootlace" "$here/"
"$here/qemu/usr/bin/qemu-aarch64-static" "$here/bootlace" --version
