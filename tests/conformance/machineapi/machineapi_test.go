// Package machineapi holds the agent's machine API against Talos' own client.
package machineapi

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/client"
	"github.com/siderolabs/talos/pkg/machinery/resources/network"
	"github.com/siderolabs/talos/pkg/machinery/resources/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// bounded is how long one test may take.
const bounded = 30 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv("MACHINE_API") == "" {
		println("MACHINE_API names the example that is tested")
		os.Exit(1)
	}

	os.Exit(m.Run())
}

// start runs the agent's machine API as a process and returns its address.
func start(t *testing.T) string {
	t.Helper()

	command := exec.Command(os.Getenv("MACHINE_API"), "127.0.0.1:0")
	command.Stderr = os.Stderr

	// It ends with its input.
	input, err := command.StdinPipe()
	must(t, err)
	output, err := command.StdoutPipe()
	must(t, err)
	must(t, command.Start())
	t.Cleanup(func() {
		input.Close()
		must(t, command.Wait())
	})

	line, err := bufio.NewReader(output).ReadString('\n')
	must(t, err)

	go io.Copy(io.Discard, output)

	return strings.TrimPrefix(strings.TrimSpace(line), "listening on ")
}

func must(t *testing.T, err error) {
	t.Helper()

	if err != nil {
		t.Fatal(err)
	}
}

// dial connects as Omni does to a machine in maintenance: any certificate will do.
func dial(t *testing.T) (*client.Client, context.Context) {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), bounded)
	t.Cleanup(cancel)

	c, err := client.New(ctx, client.WithTLSConfig(&tls.Config{InsecureSkipVerify: true}), client.WithEndpoints(start(t)))
	must(t, err)
	t.Cleanup(func() { c.Close() })

	return c, ctx
}

func TestVersion(t *testing.T) {
	c, ctx := dial(t)

	response, err := c.Version(ctx)
	must(t, err)

	version := response.GetMessages()[0]
	if !strings.HasPrefix(version.GetVersion().GetTag(), "v1.") || version.GetVersion().GetArch() == "" {
		t.Fatalf("version %v", version)
	}

	if version.GetPlatform().GetName() != "metal" || version.GetPlatform().GetMode() != "metal-agent" {
		t.Fatalf("platform %v", version.GetPlatform())
	}
}

func TestCertificate(t *testing.T) {
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}}

	connection, err := dialer.DialContext(t.Context(), "tcp", start(t))
	must(t, err)

	defer connection.Close()

	told := connection.(*tls.Conn).ConnectionState()
	if told.Version != tls.VersionTLS13 || told.NegotiatedProtocol != "h2" {
		t.Fatalf("version %x, protocol %q", told.Version, told.NegotiatedProtocol)
	}

	certificate := told.PeerCertificates[0]
	if _, ok := certificate.PublicKey.(ed25519.PublicKey); !ok || certificate.Version != 3 {
		t.Fatalf("key %T", certificate.PublicKey)
	}

	// Of itself, for any time, and for a server.
	roots := x509.NewCertPool()
	roots.AddCert(certificate)

	for _, now := range []time.Time{time.Unix(1, 0), time.Now(), time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC)} {
		_, err = certificate.Verify(x509.VerifyOptions{
			Roots: roots, CurrentTime: now, DNSName: "bootlace-agent",
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		})
		must(t, err)
	}

	must(t, certificate.CheckSignature(certificate.SignatureAlgorithm, certificate.RawTBSCertificate, certificate.Signature))
}

func TestDisks(t *testing.T) {
	c, ctx := dial(t)

	response, err := c.Disks(ctx)
	must(t, err)

	entries, err := os.ReadDir("/sys/block")
	must(t, err)

	names := map[string]bool{}
	for _, entry := range entries {
		names["/dev/"+entry.Name()] = true
	}

	for _, disk := range response.GetMessages()[0].GetDisks() {
		if !names[disk.GetDeviceName()] || disk.GetSystemDisk() {
			t.Errorf("disk %v", disk)
		}
	}
}

func TestMeta(t *testing.T) {
	c, ctx := dial(t)
	kind := resource.NewMetadata(runtime.NamespaceName, runtime.MetaKeyType, "", resource.VersionUndefined)
	events := make(chan state.Event)

	must(t, c.COSI.WatchKind(ctx, kind, events, state.WithBootstrapContents(true)))
	expect(t, events, state.Bootstrapped, "")

	must(t, c.MetaWrite(ctx, 0x0c, []byte("rack 7")))
	created := expect(t, events, state.Created, "0x0c")

	if value := created.Resource.(*runtime.MetaKey).TypedSpec().Value; value != "rack 7" {
		t.Fatalf("value %q", value)
	}

	must(t, c.MetaWrite(ctx, 0x0c, []byte("rack 8")))
	updated := expect(t, events, state.Updated, "0x0c")

	if old := updated.Old.(*runtime.MetaKey).TypedSpec().Value; old != "rack 7" {
		t.Fatalf("old value %q", old)
	}

	must(t, c.MetaDelete(ctx, 0x0c))
	expect(t, events, state.Destroyed, "0x0c")

	if code := client.StatusCode(c.MetaDelete(ctx, 0x0c)); code != codes.NotFound {
		t.Fatalf("code %v", code)
	}
}

func expect(t *testing.T, events <-chan state.Event, typ state.EventType, id string) state.Event {
	t.Helper()

	select {
	case event := <-events:
		if event.Type != typ || event.Resource.Metadata().ID() != id {
			t.Fatalf("event %v of %v, error %v", event.Type, event.Resource, event.Error)
		}

		return event
	case <-time.After(bounded):
		t.Fatalf("no event %v", typ)
	}

	return state.Event{}
}

// TestWatchOfOne sees how one resource is, and one that is not there.
func TestWatchOfOne(t *testing.T) {
	c, ctx := dial(t)
	events := make(chan state.Event)

	must(t, c.COSI.Watch(ctx, network.NewLinkStatus(network.NamespaceName, "lo").Metadata(), events))
	expect(t, events, state.Created, "lo")
	must(t, c.COSI.Watch(ctx, network.NewLinkStatus(network.NamespaceName, "none").Metadata(), events))
	expect(t, events, state.Destroyed, "none")
}

// TestWatchEndsWithBadBookmark is how a client learns that the machine was restarted.
func TestWatchEndsWithBadBookmark(t *testing.T) {
	c, ctx := dial(t)
	kind := resource.NewMetadata(network.NamespaceName, network.LinkStatusType, "", resource.VersionUndefined)
	events := make(chan state.Event)

	must(t, c.COSI.WatchKind(ctx, kind, events, state.WithBootstrapBookmark(true)))
	bookmark := expect(t, events, state.Noop, "").Bookmark
	must(t, c.COSI.WatchKind(ctx, kind, events, state.WithKindStartFromBookmark(bookmark)))

	err := c.COSI.WatchKind(ctx, kind, events, state.WithKindStartFromBookmark([]byte("another start")))
	if !state.IsInvalidWatchBookmarkError(err) {
		t.Fatalf("error %v", err)
	}
}

func TestRefusals(t *testing.T) {
	c, ctx := dial(t)

	for name, refused := range map[string]struct {
		call func(ctx context.Context) error
		code codes.Code
	}{
		"reboot": {func(ctx context.Context) error { return c.Reboot(ctx) }, codes.Unimplemented},
		"reset":  {func(ctx context.Context) error { return c.Reset(ctx, false, true) }, codes.Unimplemented},
		"configuration": {func(ctx context.Context) error {
			_, err := c.ApplyConfiguration(ctx, &machine.ApplyConfigurationRequest{})

			return err
		}, codes.Unimplemented},
		"write": {func(ctx context.Context) error {
			return c.COSI.Create(ctx, network.NewHostnameStatus(network.NamespaceName, "x"))
		}, codes.PermissionDenied},
		"destroy": {func(ctx context.Context) error {
			return c.COSI.Destroy(ctx, network.NewLinkStatus(network.NamespaceName, "lo").Metadata())
		}, codes.PermissionDenied},
		"secret": {func(ctx context.Context) error {
			_, err := c.COSI.List(ctx, resource.NewMetadata("secrets", "RootSecrets.secrets.talos.dev", "", resource.VersionUndefined))

			return err
		}, codes.PermissionDenied},
		"other machine": {func(ctx context.Context) error {
			_, err := c.Version(metadata.AppendToOutgoingContext(ctx, "nodes", "10.0.0.9"))

			return err
		}, codes.PermissionDenied},
	} {
		err := refused.call(ctx)

		code := client.StatusCode(err)
		if state.IsOwnerConflictError(err) {
			// COSI's name for it.
			code = codes.PermissionDenied
		}

		if code != refused.code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestManyConnections holds many that say nothing and sees the machine answer all the same.
func TestManyConnections(t *testing.T) {
	address := start(t)

	for range 200 {
		connection, err := net.Dial("tcp", address)
		must(t, err)

		defer connection.Close()
	}

	ctx, cancel := context.WithTimeout(t.Context(), bounded)
	defer cancel()

	c, err := client.New(ctx, client.WithTLSConfig(&tls.Config{InsecureSkipVerify: true}), client.WithEndpoints(address))
	must(t, err)

	defer c.Close()

	_, err = c.Version(ctx)
	must(t, err)
}
