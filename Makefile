# Every target is one command that a person could type; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

TRIPLE  := $(shell rustc -vV | sed -n 's/^host: //p')
BIN     := target/$(TRIPLE)/release
BUILD   := build
# What stands in for Image Factory's files: schematic without customization, a Talos version.
SCHEMATIC     := 376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba
TALOS_VERSION := v1.13.9
TALOS_DIR     := $(BUILD)/assets/image/$(SCHEMATIC)/$(TALOS_VERSION)
# Debian's cloud kernel starts fastest on virtual machines.
KVER     = $(shell ls /lib/modules | grep -- '-cloud-amd64$$' | sort -V | tail -n 1)
FUZZ_SECONDS ?= 60

.PHONY: help setup build images image check unit test e2e demo bench arm64 conformance fuzz clean

help: ## Lists the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## Installs the Debian packages that building and testing need (idempotent)
	@tests/setup.sh

build: ## Builds the release binaries: appliance, agent, image builder, test bed
	cargo build --release --workspace --bins
	cargo build --profile agent -p bootlace-agent
	install -m 755 target/$(TRIPLE)/agent/bootlace-agent $(BIN)/

images: setup build ## Builds the agent image and the stand-in system into build/assets
	@mkdir -p $(TALOS_DIR)
	$(BIN)/bootlace-image agent --kernel /boot/vmlinuz-$(KVER) --modules /lib/modules/$(KVER) \
		--drivers virtio --agent $(BIN)/bootlace-agent -o $(BUILD)/assets
	$(BIN)/bootlace-image initramfs --init $(BIN)/standin-os --modules /lib/modules/$(KVER) \
		--drivers virtio -o $(TALOS_DIR)/initramfs-amd64.xz
	cp /boot/vmlinuz-$(KVER) $(TALOS_DIR)/kernel-amd64
	$(BIN)/standin-image --kernel $(TALOS_DIR)/kernel-amd64 --initramfs $(TALOS_DIR)/initramfs-amd64.xz \
		-o $(TALOS_DIR)/metal-amd64.raw

# Boxes and servers are real machines: Debian's generic kernel, all drivers.
METAL    = $(shell ls /lib/modules | grep -E -- '[0-9]-amd64$$' | sort -V | tail -n 1)
METAL_DIR := $(BUILD)/metal
# The key that Debian's OVMF trusts in tests; an operator takes a key of their own.
SNAKEOIL := /usr/share/ovmf/PkKek-1-snakeoil
STICK     = $(BIN)/bootlace-image usb --kernel /boot/vmlinuz-$(METAL) --modules /lib/modules/$(METAL) \
		--box $(BIN)/bootlace-box --bootlace $(BIN)/bootlace --assets $(METAL_DIR)

image: setup build ## Builds what is shipped into build/: container image, Talos extension, USB sticks
	$(BIN)/bootlace-image agent --kernel /boot/vmlinuz-$(METAL) --modules /lib/modules/$(METAL) \
		--drivers metal --agent $(BIN)/bootlace-agent -o $(METAL_DIR)
	$(BIN)/bootlace-image oci --bootlace amd64=$(BIN)/bootlace --assets $(METAL_DIR) -o $(BUILD)/bootlace-oci.tar
	$(BIN)/bootlace-image extension --bootlace $(BIN)/bootlace --assets $(METAL_DIR) -o $(BUILD)/extension
	$(BIN)/bootlace-image extension --bootlace $(BIN)/bootlace --assets $(METAL_DIR) --format oci \
		-o $(BUILD)/bootlace-extension.tar
	$(STICK) --slot $(BUILD)/bootlace.slot -o $(BUILD)/bootlace.img
	openssl rsa -in $(SNAKEOIL).key -passin pass:snakeoil -out $(BUILD)/secure.key 2>/dev/null
	$(STICK) --key $(BUILD)/secure.key --certificate $(SNAKEOIL).pem -o $(BUILD)/secure.img
	@image/sizes.sh $(BIN) $(BUILD)

check: ## Format, lints, docs, unit and property tests; cargo-deny where it is installed
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items
	@if command -v cargo-deny >/dev/null; then cargo deny check bans licenses sources; \
		else echo "cargo-deny is not installed: skipped (cargo install cargo-deny)"; fi

unit: setup ## Unit, property and fuzz-smoke tests, without virtual machines
	cargo test --workspace --exclude testbed
	cargo test -p testbed --lib --test architecture --test contract --test conflicts --test chaos

test: unit e2e ## Everything: unit, property and end-to-end tests in QEMU

e2e: images image ## Boots machines over the virtual PXE network (needs root)
	cargo test -p testbed --test bed --test e2e --test agent --test dhcp_modes --test stick --test flash --test stack --test redfish -- --test-threads=1

ARM64   := $(BUILD)/arm64
BOTH    := --ipxe $(ARM64)/all/ipxe --assets $(ARM64)/all/assets

arm64: setup build ## Builds what is shipped for arm64 into build/arm64 and boots an arm64 machine with the agent (needs root)
	image/arm64.sh $(ARM64)
	$(BIN)/bootlace-image agent --arch arm64 --drivers metal --agent $(ARM64)/bootlace-agent -o $(ARM64)/assets \
		--kernel $(ARM64)/kernel/boot/vmlinuz-* --modules $(ARM64)/kernel/lib/modules/*
	@# An appliance boots machines of both architectures, whatever it runs on.
	@mkdir -p $(ARM64)/all/ipxe $(ARM64)/all/assets
	cp -L /usr/lib/ipxe/{undionly.kpxe,ipxe.efi,snponly.efi} $(ARM64)/ipxe/ipxe-arm64.efi $(ARM64)/all/ipxe/
	cp $(ARM64)/assets/* $(ARM64)/all/assets/
	$(BIN)/bootlace-image agent --kernel /boot/vmlinuz-$(METAL) --modules /lib/modules/$(METAL) \
		--drivers metal --agent $(BIN)/bootlace-agent -o $(ARM64)/all/assets
	$(BIN)/bootlace-image extension --arch arm64 --bootlace $(ARM64)/bootlace $(BOTH) -o $(ARM64)/extension
	$(BIN)/bootlace-image extension --arch arm64 --bootlace $(ARM64)/bootlace $(BOTH) --format oci \
		-o $(ARM64)/bootlace-extension.tar
	$(BIN)/bootlace-image oci --bootlace amd64=$(BIN)/bootlace --bootlace arm64=$(ARM64)/bootlace $(BOTH) \
		-o $(ARM64)/bootlace-oci.tar
	@image/sizes.sh arm64 $(ARM64)
	cargo test -p testbed --test arm64 -- --test-threads=1 --nocapture

demo: images ## Three machines, three firmwares: from power-on to an installed system (KEEP=1 leaves it running)
	$(BIN)/demo $(if $(KEEP),--keep)

bench: setup build ## Thousands of clients against us and other servers, into docs/benchmarks.md (BENCH=dhcp,tftp: only those); boot decisions; 2,000 machines
	tests/bench/peers.sh
	$(BIN)/bootlace-bench suite --bootlace $(BIN)/bootlace \
		$(if $(BENCH),--only $(BENCH),--write docs/benchmarks.md --plot docs/storm.svg)
	$(if $(BENCH),,cargo bench -p testbed --bench decision)
	$(if $(BENCH),,cargo test -p testbed --test scale -- --nocapture --include-ignored)

conformance: images ## Omni's own Go clients against the hub, Talos' against the agent and the extension, Talos' metal agent and the Go provider with machines (needs Go)
	tests/conformance/run.sh
	tests/conformance/machineapi/run.sh
	tests/conformance/agent/run.sh
	tests/conformance/wireguard/run.sh
	tests/conformance/extension/run.sh
	tests/conformance/talos/run.sh
	tests/conformance/metal-agent/run.sh
	tests/conformance/provider/run.sh

fuzz: ## Mutates captured packets against every parser, FUZZ_SECONDS (60) each, with overflow checks
	FUZZ_SECONDS=$(FUZZ_SECONDS) cargo test -p netboot -p netboot-link --test fuzz -- --nocapture --test-threads=2
	FUZZ_ITERATIONS=$$(( $(FUZZ_SECONDS) * 50000 )) cargo test -p agent-wire -p power --test fuzz

clean: ## Removes what was built
	rm -rf $(BUILD) target
