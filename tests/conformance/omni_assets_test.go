package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/siderolabs/image-factory/pkg/schematic"
	"github.com/siderolabs/omni/client/pkg/client"
	"github.com/siderolabs/omni/client/pkg/infra/imagefactory"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"
)

// TestMain stands in for the Image Factory that run.sh tells the appliance of.
func TestMain(m *testing.M) {
	if address := os.Getenv("FACTORY"); address != "" {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}

		go http.Serve(listener, http.HandlerFunc(makeSchematic)) //nolint:errcheck
	}

	os.Exit(m.Run())
}

// makeSchematic takes a schematic as the factory does; it has no extension of the name "nowhere".
func makeSchematic(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/schematics" {
		http.NotFound(w, r)

		return
	}

	made, err := schematic.Unmarshal(body)
	if err != nil || strings.Contains(string(body), "nowhere") {
		http.Error(w, "it is no schematic", http.StatusBadRequest)

		return
	}

	id, err := made.ID()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)

		return
	}

	w.WriteHeader(http.StatusCreated)
	json.NewEncoder(w).Encode(map[string]string{"id": id}) //nolint:errcheck
}

func withExtension(name string) schematic.Schematic {
	return schematic.Schematic{Customization: schematic.Customization{
		ExtraKernelArgs:  []string{"console=ttyS0"},
		SystemExtensions: schematic.SystemExtensions{OfficialExtensions: []string{name}},
	}}
}

// TestOmniSchematics is how a provider of Omni 1.9 and later gets a schematic: it asks Omni, which has the factory.
func TestOmniSchematics(t *testing.T) {
	proxied, err := imagefactory.NewProxiedClient(omniClient(t))
	if err != nil {
		t.Fatal(err)
	}

	wanted := withExtension("siderolabs/metal-agent")

	want, err := wanted.ID()
	if err != nil {
		t.Fatal(err)
	}

	got, err := proxied.EnsureSchematic(bounded(t), wanted)
	if err != nil || got != want {
		t.Errorf("the schematic is %q, not %q: %v", got, want, err)
	}

	_, err = proxied.EnsureSchematic(bounded(t), withExtension("siderolabs/nowhere"))
	expect(t, "a schematic that the factory does not take", err, codes.InvalidArgument)

	_, err = omniClient(t).Management().CreateSchematicFromRaw(bounded(t), []byte("- a list"))
	expect(t, "no schematic", err, codes.InvalidArgument)
}

// TestOmniBootAssets calls what the SDK calls from August 2026 on, with the signature of the client that is here:
// that one does not know the call yet.
func TestOmniBootAssets(t *testing.T) {
	var conn *grpc.ClientConn

	take := func(
		ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
	) error {
		conn = cc

		return invoke(ctx, method, req, reply, cc, opts...)
	}

	c, err := client.New(environment(t, "OMNI_ENDPOINT"), client.WithServiceAccount(environment(t, "OMNI_SERVICE_ACCOUNT_KEY")),
		client.WithGrpcOpts(grpc.WithChainUnaryInterceptor(take)))
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { c.Close() })

	if _, err = c.Management().CreateSchematicFromRaw(bounded(t), []byte("customization: {}\n")); err != nil {
		t.Fatal(err)
	}

	ask := func(kind uint64, platform string) (map[protowire.Number]string, error) {
		var wire []byte

		for number, text := range map[protowire.Number]string{1: "1.13.7", 2: "5c4", 5: platform, 6: "amd64"} {
			wire = protowire.AppendTag(wire, number, protowire.BytesType)
			wire = protowire.AppendString(wire, text)
		}

		wire = protowire.AppendTag(wire, 4, protowire.VarintType)
		wire = protowire.AppendVarint(wire, kind)

		request, reply := &emptypb.Empty{}, &emptypb.Empty{}
		request.ProtoReflect().SetUnknown(wire)

		if err := conn.Invoke(bounded(t), "/management.ManagementService/GetBootAssetURL", request, reply); err != nil {
			return nil, err
		}

		fields := map[protowire.Number]string{}

		for rest := []byte(reply.ProtoReflect().GetUnknown()); len(rest) > 0; {
			number, typ, length := protowire.ConsumeTag(rest)
			if typ != protowire.BytesType {
				return nil, fmt.Errorf("field %d has type %d", number, typ)
			}

			value, more := protowire.ConsumeString(rest[length:])
			fields[number] = value
			rest = rest[length+more:]
		}

		return fields, nil
	}

	base := "http://" + environment(t, "FACTORY")

	for kind, path := range map[uint64]string{1: "/pxe/5c4/v1.13.7/metal-amd64", 2: "/image/5c4/v1.13.7/metal-amd64.iso"} {
		asset, err := ask(kind, "metal")
		if err != nil || asset[1] != base+path || "http://"+asset[3] != base || len(asset[4]) != 64 {
			t.Errorf("kind %d is %v: %v", kind, asset, err)
		}
	}

	_, err = ask(1, "../secret")
	expect(t, "a platform that leads elsewhere", err, codes.InvalidArgument)

	_, err = ask(0, "metal")
	expect(t, "no kind", err, codes.InvalidArgument)
}
