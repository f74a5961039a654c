package machineapi

import (
	"context"
	"crypto/tls"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/cosi-project/runtime/api/v1alpha1"
	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/resource/meta"
	"github.com/cosi-project/runtime/pkg/resource/protobuf"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/siderolabs/talos/pkg/machinery/resources/block"
	"github.com/siderolabs/talos/pkg/machinery/resources/hardware"
	"github.com/siderolabs/talos/pkg/machinery/resources/network"
	"github.com/siderolabs/talos/pkg/machinery/resources/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"gopkg.in/yaml.v3"
)

// served are all types that the agent serves.
var served = []meta.ResourceDefinitionProvider{
	network.NewLinkStatus("", ""),
	network.NewAddressStatus("", ""),
	network.NewRouteStatus("", ""),
	network.NewNodeAddress("", ""),
	network.NewHostnameStatus("", ""),
	hardware.NewSystemInformation(""),
	hardware.NewProcessorInfo(""),
	hardware.NewMemoryModuleInfo(""),
	block.NewDisk("", ""),
	block.NewSystemDisk("", ""),
	runtime.NewPlatformMetadataSpec("", ""),
	runtime.NewSecurityStateSpec(""),
	runtime.NewKernelCmdline(),
	runtime.NewExtensionStatus("", ""),
	runtime.NewMachineStatus(),
	runtime.NewVersion(),
	runtime.NewMetaKey("", ""),
	runtime.NewUniqueMachineToken(),
	runtime.NewDiagnostic("", ""),
	&meta.ResourceDefinition{},
	&meta.Namespace{},
}

// newer tells whether the client is of the version that the agent speaks; an older one knows fewer fields.
func newer() bool { return os.Getenv("MACHINERY") == "same" }

// TestDefinitions compares what the agent says of its types with what Talos says.
func TestDefinitions(t *testing.T) {
	c, ctx := dial(t)

	told, err := safe.StateListAll[*meta.ResourceDefinition](ctx, c.COSI)
	must(t, err)

	types := map[string]*meta.ResourceDefinition{}
	for definition := range told.All() {
		types[definition.TypedSpec().Type] = definition
	}

	for _, provider := range served {
		expected, err := meta.NewResourceDefinition(provider.ResourceDefinition())
		must(t, err)

		actual, ok := types[expected.TypedSpec().Type]
		if !ok {
			t.Errorf("%s is not told", expected.TypedSpec().Type)

			continue
		}

		delete(types, expected.TypedSpec().Type)

		if newer() && !reflect.DeepEqual(plain(t, actual.TypedSpec()), plain(t, expected.TypedSpec())) {
			t.Errorf("told\n%+v\ninstead of\n%+v", *actual.TypedSpec(), *expected.TypedSpec())
		}

		if actual.Metadata().ID() != expected.Metadata().ID() {
			t.Errorf("id %q", actual.Metadata().ID())
		}
	}

	for typ := range types {
		t.Errorf("%s is told, but nobody knows it here", typ)
	}
}

// plain is a value as YAML knows it.
func plain(t *testing.T, value any) any {
	t.Helper()

	text, err := yaml.Marshal(value)
	must(t, err)

	return parsed(t, string(text))
}

func parsed(t *testing.T, text string) any {
	t.Helper()

	var value any

	must(t, yaml.Unmarshal([]byte(text), &value))

	return withoutEmpty(value)
}

// withoutEmpty takes an absent list for an empty one: Go's nil and Rust's Vec are the same on the wire.
func withoutEmpty(value any) any {
	mapping, ok := value.(map[string]any)
	if !ok {
		return value
	}

	for key, inner := range mapping {
		inner = withoutEmpty(inner)
		mapping[key] = inner

		if list, ok := inner.([]any); inner == nil || ok && len(list) == 0 {
			delete(mapping, key)
		}
	}

	return mapping
}

// TestResources lists every type and sees each resource decoded as Talos' own, and shown as Talos shows it.
func TestResources(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), bounded)
	defer cancel()

	tlsConfig := credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})
	connection, err := grpc.NewClient(start(t), grpc.WithTransportCredentials(tlsConfig))
	must(t, err)

	defer connection.Close()

	client := v1alpha1.NewStateClient(connection)
	count := map[string]int{}

	for _, provider := range served {
		definition := provider.ResourceDefinition()

		stream, err := client.List(ctx, &v1alpha1.ListRequest{Namespace: definition.DefaultNamespace, Type: definition.Type})
		must(t, err)

		for {
			response, err := stream.Recv()
			if err == io.EOF {
				break
			}

			must(t, err)

			count[definition.Type]++
			compare(t, response.GetResource())
		}
	}

	t.Logf("%v", count)

	for _, typ := range []resource.Type{
		network.LinkStatusType, network.AddressStatusType, network.RouteStatusType, network.NodeAddressType,
		hardware.SystemInformationType, hardware.ProcessorType, hardware.MemoryModuleType, runtime.PlatformMetadataType,
		runtime.SecurityStateType, runtime.KernelCmdlineType, runtime.ExtensionStatusType, runtime.MachineStatusType,
		runtime.VersionType,
	} {
		if count[typ] == 0 {
			t.Errorf("no %s", typ)
		}
	}
}

func compare(t *testing.T, wire *v1alpha1.Resource) {
	t.Helper()

	generic, err := protobuf.Unmarshal(wire)
	must(t, err)
	typed, err := protobuf.UnmarshalResource(generic)
	must(t, err)

	if _, ok := typed.(*protobuf.Resource); ok {
		t.Errorf("%s is not known", wire.GetMetadata().GetType())
	}

	again, err := protobuf.FromResource(typed)
	must(t, err)
	expected, err := again.Marshal()
	must(t, err)

	told, own := parsed(t, wire.GetSpec().GetYamlSpec()), parsed(t, expected.GetSpec().GetYamlSpec())
	if newer() && !reflect.DeepEqual(told, own) {
		t.Errorf("%s is shown as\n%s\ninstead of\n%s", typed.Metadata(), wire.GetSpec().GetYamlSpec(), expected.GetSpec().GetYamlSpec())
	}

	metadata := typed.Metadata()
	if metadata.Version().String() == "undefined" || metadata.Created().IsZero() || metadata.Phase() != resource.PhaseRunning {
		t.Errorf("metadata %v", metadata)
	}

	if disk, ok := typed.(*block.Disk); ok {
		size := disk.TypedSpec().PrettySize
		disk.TypedSpec().SetSize(disk.TypedSpec().Size)

		if disk.TypedSpec().PrettySize != size {
			t.Errorf("size %q instead of %q", size, disk.TypedSpec().PrettySize)
		}
	}

	if address, ok := typed.(*network.AddressStatus); ok {
		if id := network.AddressID(address.TypedSpec().LinkName, address.TypedSpec().Address); id != metadata.ID() {
			t.Errorf("id %q instead of %q", metadata.ID(), id)
		}
	}

	if route, ok := typed.(*network.RouteStatus); ok {
		spec := route.TypedSpec()

		id := network.RouteID(spec.Table, spec.Family, spec.Destination, spec.Gateway, spec.Priority, spec.OutLinkName)
		if newer() && id != metadata.ID() {
			t.Errorf("id %q instead of %q", metadata.ID(), id)
		}
	}
}

// TestAliases resolves what people type.
func TestAliases(t *testing.T) {
	c, ctx := dial(t)

	for alias, typ := range map[string]resource.Type{
		"links": network.LinkStatusType, "disks": block.DiskType, "cpu": hardware.ProcessorType,
		"meta": runtime.MetaKeyType, "extensions": runtime.ExtensionStatusType, "routes": network.RouteStatusType,
	} {
		var namespace resource.Namespace

		definition, err := c.ResolveResourceKind(ctx, &namespace, alias)
		must(t, err)

		if definition.TypedSpec().Type != typ || namespace == "" || strings.Contains(namespace, " ") {
			t.Errorf("%s is %s in %s", alias, definition.TypedSpec().Type, namespace)
		}
	}
}
