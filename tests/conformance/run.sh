#!/bin/bash
# Starts an appliance on loopback and holds its hub against Omni's Go clients.
#
#   tests/conformance/run.sh [-part=cosi|vectors|omni|all]
#
# BOOTLACE names the binary to test; without it one is built. Needs Go; downloads modules at the first run.
set -euo pipefail

readonly START_SECONDS=30 STOP_SECONDS=10 BUILD_SECONDS=900 TEST_SECONDS=300

part=all
for argument in "$@"; do
	case $argument in
	-part=*) part=${argument#-part=} ;;
	*) echo "conformance: unknown argument $argument" >&2; exit 2 ;;
	esac
done
case $part in
cosi) pattern='^Test(Cosi|Wire|Restart)' ;;
vectors) pattern='^TestVectors' ;;
omni) pattern='^TestOmni' ;;
all) pattern='^Test' ;;
*) echo "conformance: unknown part $part: cosi, vectors, omni or all" >&2; exit 2 ;;
esac

source "$(dirname "$0")/begin.sh"

cd "$(dirname "$0")"
export GOFLAGS=-mod=readonly
if [[ -z ${BOOTLACE:-} ]]; then
	(cd "$root" && cargo build --quiet -p bootlace)
	BOOTLACE=$target/debug/bootlace
fi
export BOOTLACE

work=$(mktemp -d)
pid=
stop() {
	if [[ -n $pid ]] && kill "$pid" 2>/dev/null; then
		for ((i = 0; i < STOP_SECONDS * 10; i++)); do
			kill -0 "$pid" 2>/dev/null || break
			sleep 0.1
		done
		kill -KILL "$pid" 2>/dev/null && echo "conformance: the appliance did not stop by itself" >&2
	fi
	rm -rf "$work"
}
trap stop EXIT

timeout "$BUILD_SECONDS" go test -c -o "$work/tests" .
timeout "$BUILD_SECONDS" go build -o "$work/report" ./cmd/report

# A port that nobody answers on. Somebody may take it before the appliance does: then it does not start.
free_port() {
	local port
	while port=$((20000 + RANDOM % 10000)); (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
	echo "$port"
}

mkdir "$work/state" "$work/assets"
api_port=$(free_port) machine_port=$(free_port) log_port=$(free_port)
# The tests stand in for the Image Factory there.
export FACTORY=127.0.0.1:$(free_port)
cat >"$work/appliance.toml" <<CONFIG
state_dir = "$work/state"
id = "own"
[api]
advertise_address = "127.0.0.1"
listen_address = "127.0.0.1"
port = $(free_port)
[netboot]
disable_dhcp_proxy = true
tftp_port = $(free_port)
[hub]
machine_api_port = $machine_port
api_listen = "127.0.0.1:$api_port"
kernel_log_port = $log_port
# The clients here have no tunnel; tests/conformance/wireguard has.
wireguard = false
[boot]
assets_path = "$work/assets"
image_factory_base_url = "http://$FACTORY"
image_factory_pxe_base_url = "http://$FACTORY"
CONFIG
"$BOOTLACE" run -c "$work/appliance.toml" >"$work/log" 2>&1 &
pid=$!
export BOOTLACE_SOCKET=$work/state/bootlace.sock
for ((i = 0; ; i++)); do
	[[ -S $BOOTLACE_SOCKET ]] && break
	if ! kill -0 "$pid" 2>/dev/null || ((i > START_SECONDS * 10)); then
		echo "conformance: the appliance did not start:" >&2
		cat "$work/log" >&2
		exit 1
	fi
	sleep 0.1
done

# One line of what `hub provider create` prints.
printed() { sed -n "s/^\(export \)\?$2=//p" "$work/$1.env"; }
if [[ $part == omni || $part == all ]]; then
	# The tests know these names.
	for provider in conformance dynamic; do
		"$BOOTLACE" hub provider create "$provider" -c "$work/appliance.toml" >"$work/$provider.env"
	done
	OMNI_ENDPOINT=$(printed conformance OMNI_ENDPOINT)
	OMNI_SERVICE_ACCOUNT_KEY=$(printed conformance OMNI_SERVICE_ACCOUNT_KEY)
	DYNAMIC_SERVICE_ACCOUNT_KEY=$(printed dynamic OMNI_SERVICE_ACCOUNT_KEY)
	export OMNI_ENDPOINT OMNI_SERVICE_ACCOUNT_KEY DYNAMIC_SERVICE_ACCOUNT_KEY
	export PROVIDER_ID=conformance OTHER_PROVIDER_ID=dynamic MACHINE_API=127.0.0.1:$machine_port KERNEL_LOGS=127.0.0.1:$log_port BOOTLACE_CONFIG=$work/appliance.toml
fi

# The report judges; the tests' own exit code is 1 with each deviation.
timeout $((TEST_SECONDS + 30)) go tool test2json "$work/tests" \
	-test.v=test2json -test.count=1 -test.timeout="${TEST_SECONDS}s" -test.run="$pattern" >"$work/events" || true
if ! "$work/report" deviations.txt <"$work/events"; then
	echo "conformance: the appliance said:" >&2
	tail -n 40 "$work/log" >&2
	exit 1
fi
if ! kill -0 "$pid" 2>/dev/null; then
	echo "conformance: the appliance ended meanwhile:" >&2
	tail -n 40 "$work/log" >&2
	exit 1
fi
