package machineapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/resource/meta"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/talos/pkg/machinery/client"
	talosmeta "github.com/siderolabs/talos/pkg/machinery/meta"
	"github.com/siderolabs/talos/pkg/machinery/resources/block"
	"github.com/siderolabs/talos/pkg/machinery/resources/hardware"
	"github.com/siderolabs/talos/pkg/machinery/resources/network"
	"github.com/siderolabs/talos/pkg/machinery/resources/runtime"
)

// Omni's collector is internal to Omni; this makes the same calls, as facts of its version v1.10.

// watched are the types that it watches, if they are told.
var watched = []resource.Pointer{
	kind(network.NamespaceName, network.HostnameStatusType),
	kind(network.NamespaceName, network.LinkStatusType),
	kind(network.NamespaceName, network.RouteStatusType),
	kind(network.NamespaceName, network.NodeAddressType),
	kind(hardware.NamespaceName, hardware.ProcessorType),
	kind(hardware.NamespaceName, hardware.MemoryModuleType),
	kind(runtime.NamespaceName, runtime.PlatformMetadataType),
	kind(runtime.NamespaceName, runtime.MetaKeyType),
	kind(runtime.NamespaceName, runtime.ExtensionStatusType),
	kind(runtime.NamespaceName, runtime.MachineStatusType),
	kind(runtime.NamespaceName, runtime.VersionType),
	kind(runtime.NamespaceName, runtime.SecurityStateType),
	kind(runtime.NamespaceName, runtime.DiagnosticType),
	kind(block.NamespaceName, block.DiskType),
}

func kind(namespace resource.Namespace, typ resource.Type) resource.Pointer {
	return resource.NewMetadata(namespace, typ, "", resource.VersionUndefined)
}

func TestOmniCollects(t *testing.T) {
	c, ctx := dial(t)

	definitions, err := safe.StateListAll[*meta.ResourceDefinition](ctx, c.COSI)
	must(t, err)

	told := map[resource.Type]bool{}
	for definition := range definitions.All() {
		told[definition.TypedSpec().Type] = true
	}

	events := make(chan state.Event)

	for _, one := range watched {
		if !told[one.Type()] {
			t.Errorf("%s is not told", one.Type())
		}

		must(t, c.COSI.WatchKind(ctx, one, events))
	}

	version, err := c.Version(ctx)
	must(t, err)

	for _, field := range []string{version.Messages[0].Version.Tag, version.Messages[0].Version.Arch} {
		if field == "" {
			t.Errorf("version %v", version)
		}
	}

	named, err := safe.StateGetByID[*runtime.Version](ctx, c.COSI, runtime.NewVersion().Metadata().ID())
	must(t, err)

	if named.TypedSpec().Version != version.Messages[0].Version.Tag {
		t.Errorf("version %v", named.TypedSpec())
	}

	// Anything else than "not found" ends the collection.
	if _, err = safe.StateGetByID[*block.SystemDisk](ctx, c.COSI, block.SystemDiskID); !state.IsNotFoundError(err) {
		t.Errorf("system disk: %v", err)
	}

	// Without it Omni keeps the machine on for ever.
	_, err = safe.StateGetByID[*runtime.SecurityState](ctx, c.COSI, runtime.SecurityStateID)
	must(t, err)

	platform, err := safe.StateGetByID[*runtime.PlatformMetadata](ctx, c.COSI, runtime.PlatformMetadataID)
	must(t, err)

	if platform.TypedSpec().Platform != "metal" {
		t.Errorf("platform %v", platform.TypedSpec())
	}

	status, err := safe.StateGetByID[*runtime.MachineStatus](ctx, c.COSI, runtime.MachineStatusID)
	must(t, err)

	if status.TypedSpec().Stage != runtime.MachineStageMaintenance {
		t.Errorf("stage %v", status.TypedSpec().Stage)
	}

	agent := false

	extensions, err := safe.StateListAll[*runtime.ExtensionStatus](ctx, c.COSI)
	must(t, err)

	for extension := range extensions.All() {
		agent = agent || extension.TypedSpec().Metadata.Name == "metal-agent"
	}

	if !agent {
		t.Error("it is not known as an agent: Omni would configure it")
	}

	collectHardware(t, ctx, c)
	collectNetwork(t, ctx, c)
}

func collectHardware(t *testing.T, ctx context.Context, c *client.Client) {
	t.Helper()

	processors, err := safe.StateListAll[*hardware.Processor](ctx, c.COSI)
	must(t, err)

	modules, err := safe.StateListAll[*hardware.MemoryModule](ctx, c.COSI)
	must(t, err)

	cores, megabytes := uint32(0), uint32(0)
	for processor := range processors.All() {
		cores += processor.TypedSpec().CoreCount
	}

	for module := range modules.All() {
		megabytes += module.TypedSpec().Size
	}

	if cores == 0 || megabytes == 0 {
		t.Errorf("%d cores, %d MiB", cores, megabytes)
	}

	_, err = safe.StateListAll[*block.Disk](ctx, c.COSI)
	must(t, err)

	diagnostics, err := safe.StateListAll[*runtime.Diagnostic](ctx, c.COSI)
	must(t, err)

	if diagnostics.Len() != 0 {
		t.Errorf("%d diagnostics", diagnostics.Len())
	}

	cmdline, err := safe.StateGetByID[*runtime.KernelCmdline](ctx, c.COSI, runtime.KernelCmdlineID)
	must(t, err)

	if cmdline.TypedSpec().Cmdline == "" {
		t.Error("no kernel command line")
	}
}

func collectNetwork(t *testing.T, ctx context.Context, c *client.Client) {
	t.Helper()

	links, err := safe.StateListAll[*network.LinkStatus](ctx, c.COSI)
	must(t, err)

	for link := range links.All() {
		actual, err := net.InterfaceByName(link.Metadata().ID())
		must(t, err)

		if !bytes.Equal(actual.HardwareAddr, link.TypedSpec().HardwareAddr) && link.Metadata().ID() != "lo" {
			t.Errorf("link %v: %v", actual, link.TypedSpec())
		}
	}

	addresses, err := safe.StateGetByID[*network.NodeAddress](ctx, c.COSI, network.NodeAddressCurrentID)
	must(t, err)

	actual, err := net.InterfaceAddrs()
	must(t, err)

	for _, address := range addresses.TypedSpec().Addresses {
		if !slices.ContainsFunc(actual, func(one net.Addr) bool { return one.String() == address.String() }) {
			t.Errorf("address %v of %v", address, actual)
		}
	}

	_, err = safe.StateListAll[*network.RouteStatus](ctx, c.COSI)
	must(t, err)

	_, err = safe.StateListAll[*network.HostnameStatus](ctx, c.COSI)
	must(t, err)
}

// TestOmniGivesAToken is what Omni does with a machine that registered without one.
func TestOmniGivesAToken(t *testing.T) {
	c, ctx := dial(t)

	disks, err := c.Disks(ctx)
	must(t, err)

	for _, disk := range disks.Messages[0].Disks {
		if disk.SystemDisk {
			t.Errorf("Talos is installed on %v", disk)
		}
	}

	links, err := safe.StateListAll[*network.LinkStatus](ctx, c.COSI)
	must(t, err)

	var addresses [][]byte

	for link := range links.All() {
		if !link.TypedSpec().Physical() {
			continue
		}

		address := []byte(link.TypedSpec().PermanentAddr)
		if address == nil {
			address = link.TypedSpec().HardwareAddr
		}

		addresses = append(addresses, address)
	}

	slices.SortFunc(addresses, bytes.Compare)

	fingerprint := sha256.Sum256(bytes.Join(addresses, nil))
	token, err := json.Marshal(map[string]string{"Fingerprint": hex.EncodeToString(fingerprint[:]), "Token": "a-token"})
	must(t, err)
	must(t, c.MetaWrite(ctx, talosmeta.UniqueMachineToken, token))

	kept, err := safe.StateGetByID[*runtime.MetaKey](ctx, c.COSI, runtime.MetaKeyTagToID(talosmeta.UniqueMachineToken))
	must(t, err)

	if kept.TypedSpec().Value != string(token) {
		t.Errorf("value %q", kept.TypedSpec().Value)
	}

	unique, err := safe.StateGetByID[*runtime.UniqueMachineToken](ctx, c.COSI, runtime.UniqueMachineTokenID)
	must(t, err)

	if unique.TypedSpec().Token != string(token) {
		t.Errorf("token %q", unique.TypedSpec().Token)
	}
}

// TestOmniGivesAnotherUUID is what Omni does with the second machine of one UUID.
func TestOmniGivesAnotherUUID(t *testing.T) {
	c, ctx := dial(t)
	events := make(chan state.Event)
	system := hardware.NewSystemInformation(hardware.SystemInformationID)

	must(t, c.COSI.Watch(ctx, system.Metadata(), events))
	expect(t, events, state.Created, hardware.SystemInformationID)

	const uuid = "11111111-2222-4333-8444-555555555555"

	must(t, c.MetaWrite(ctx, talosmeta.UUIDOverride, []byte(uuid)))

	updated := expect(t, events, state.Updated, hardware.SystemInformationID)
	if told := updated.Resource.(*hardware.SystemInformation).TypedSpec().UUID; !strings.EqualFold(told, uuid) {
		t.Errorf("uuid %q", told)
	}
}
