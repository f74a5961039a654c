#!/usr/bin/env bash
# Puts the servers that bootlace is compared with into build/peers, without installing them: nothing of them is started
# by their packages. What cannot be had is left out, and `make bench` says so.
set -euo pipefail
cd "$(dirname "$0")/../.."

peers=$PWD/build/peers
mkdir -p "$peers"

# The packages themselves; what they need is on most machines.
for package in nginx tftpd-hpa; do
    case $package in
        nginx) file=usr/sbin/nginx ;;
        tftpd-hpa) file=usr/sbin/in.tftpd ;;
    esac
    [ -e "$peers/$file" ] && continue
    folder=$(mktemp -d)
    if (cd "$folder" && apt-get download "$package" >/dev/null 2>&1); then
        dpkg -x "$folder"/*.deb "$peers"
    else
        echo "peers: $package cannot be downloaded: left out" >&2
    fi
    rm -rf "$folder"
done

if [ ! -x "$peers/bin/tftpd" ]; then
    timeout 300 cargo install tftpd --version 1.0.0 --quiet --root "$peers" ||
        echo "peers: tftpd (rs-tftpd) cannot be built: left out" >&2
fi
