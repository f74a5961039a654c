// Package agent holds both ends of the reverse tunnel against what the Go provider and Talos' metal agent are
// made of: jhump/grpctunnel and the agent's own generated service.
package agent

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jhump/grpctunnel"
	"github.com/jhump/grpctunnel/tunnelpb"
	agentpb "github.com/siderolabs/talos-metal-agent/api/agent"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// bounded is how long one test may take. A build may run beside it.
const bounded = 60 * time.Second

const machineID = "4c4c4544-0031-3010-8034-c2c04f4e5131"

func TestMain(m *testing.M) {
	if os.Getenv("TUNNEL") == "" {
		println("TUNNEL names the example that is tested")
		os.Exit(1)
	}

	os.Exit(m.Run())
}

func must(t *testing.T, err error) {
	t.Helper()

	if err != nil {
		t.Fatal(err)
	}
}

// run starts our end as a process, which ends with its input, and returns the lines that it prints.
func run(t *testing.T, arguments ...string) <-chan string {
	t.Helper()

	command := exec.Command(os.Getenv("TUNNEL"), arguments...)
	command.Stderr = os.Stderr

	input, err := command.StdinPipe()
	must(t, err)
	output, err := command.StdoutPipe()
	must(t, err)
	must(t, command.Start())
	t.Cleanup(func() {
		input.Close()
		command.Wait() //nolint:errcheck // it is told to end
	})

	lines := make(chan string, 64)

	go func() {
		defer close(lines)

		for scanner := bufio.NewScanner(output); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()

	return lines
}

func next(t *testing.T, ctx context.Context, lines <-chan string) string {
	t.Helper()

	select {
	case line, ok := <-lines:
		if !ok {
			t.Fatal("it ended")
		}

		return line
	case <-ctx.Done():
		t.Fatal("it says nothing")
	}

	return ""
}

// TestOurAgentServesTheGoProvider is the Go provider's handler with our agent at the other end, with and without TLS.
func TestOurAgentServesTheGoProvider(t *testing.T) {
	t.Run("plain", func(t *testing.T) { ourAgentServesTheGoProvider(t, nil) })
	t.Run("tls", func(t *testing.T) { ourAgentServesTheGoProvider(t, newAuthority(t)) })
}

func ourAgentServesTheGoProvider(t *testing.T, ca *authority) {
	ctx, cancel := context.WithTimeout(t.Context(), bounded)
	defer cancel()

	opened := make(chan string, 8)
	closed := make(chan struct{}, 8)
	handler := grpctunnel.NewTunnelServiceHandler(grpctunnel.TunnelServiceHandlerOptions{
		OnReverseTunnelOpen: func(channel grpctunnel.TunnelChannel) {
			md, _ := metadata.FromIncomingContext(channel.Context())
			opened <- strings.Join(md.Get("machine-id"), ",")
		},
		OnReverseTunnelClose: func(grpctunnel.TunnelChannel) { closed <- struct{}{} },
		AffinityKey:          func(grpctunnel.TunnelChannel) any { return machineID },
	})

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)

	stop := serve(handler.Service(), listener, ca)
	defer func() { stop() }()

	arguments := []string{"agent", listener.Addr().String()}
	if ca != nil {
		arguments = append(arguments, ca.file)
	}

	run(t, arguments...)

	select {
	case id := <-opened:
		if id != machineID {
			t.Fatalf("it says to be %q", id)
		}
	case <-ctx.Done():
		t.Fatal("no tunnel")
	}

	client := agentpb.NewAgentServiceClient(handler.KeyAsChannel(machineID))

	_, err = client.Hello(ctx, &agentpb.HelloRequest{})
	must(t, err)

	power, err := client.GetPowerManagement(ctx, &agentpb.GetPowerManagementRequest{
		Ipmi: &agentpb.GetPowerManagementRequest_IPMI{CheckUsername: "known"},
	})
	must(t, err)

	if power.GetApi() != nil || power.GetIpmi().GetAddress() != "10.0.0.9" || power.GetIpmi().GetPort() != 623 ||
		!power.GetIpmi().GetUserExists() {
		t.Fatalf("power management: %v", power)
	}

	set := func(password string) error {
		_, err := client.SetPowerManagement(ctx, &agentpb.SetPowerManagementRequest{
			Ipmi: &agentpb.SetPowerManagementRequest_IPMI{Username: "talos-agent", Password: password},
		})

		return err
	}
	must(t, set("strong"))

	if code := status.Code(set("weak")); code != codes.InvalidArgument {
		t.Fatalf("a password that the BMC refuses: %v", code)
	}

	var header metadata.MD

	_, err = client.WipeDisks(ctx, &agentpb.WipeDisksRequest{Zeroes: true}, grpc.Header(&header))
	must(t, err)

	if report := header.Get("bootlace-wipe-report"); len(report) != 1 || !strings.Contains(report[0], "is blank") {
		t.Fatalf("the report of a wipe: %v", header)
	}

	_, err = client.WipeDisks(ctx, &agentpb.WipeDisksRequest{})
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "sdb: input/output error") {
		t.Fatalf("a wipe that fails: %v", err)
	}

	_, err = client.Reboot(ctx, &agentpb.RebootRequest{})
	must(t, err)

	// Many at once, each with its deadline.
	var calls sync.WaitGroup
	for range 40 {
		calls.Go(func() {
			if _, err := client.Hello(ctx, &agentpb.HelloRequest{}); err != nil {
				t.Error(err)
			}
		})
	}

	calls.Wait()

	// The provider goes, another comes: one machine, and it calls again.
	address := listener.Addr().String()
	stop()

	select {
	case <-closed:
	case <-ctx.Done():
		t.Fatal("the tunnel does not end with its server")
	}

	listener, err = net.Listen("tcp", address)
	must(t, err)

	stop = serve(handler.Service(), listener, ca)

	select {
	case id := <-opened:
		if id != machineID {
			t.Fatalf("it says to be %q", id)
		}
	case <-ctx.Done():
		t.Fatal("it does not come back")
	}

	_, err = client.Hello(ctx, &agentpb.HelloRequest{})
	must(t, err)
}

// goAgent is an agent of Talos' kind: its generated service, its way to dial, harmless acts.
type goAgent struct {
	agentpb.UnimplementedAgentServiceServer
	called chan string
}

func (a *goAgent) Hello(context.Context, *agentpb.HelloRequest) (*agentpb.HelloResponse, error) {
	a.called <- "hello"

	return &agentpb.HelloResponse{}, nil
}

func (a *goAgent) GetPowerManagement(
	_ context.Context, request *agentpb.GetPowerManagementRequest,
) (*agentpb.GetPowerManagementResponse, error) {
	a.called <- "power " + request.GetIpmi().GetCheckUsername()

	return &agentpb.GetPowerManagementResponse{
		Ipmi: &agentpb.GetPowerManagementResponse_IPMI{Address: "10.0.0.8", Port: 6230, UserExists: true},
	}, nil
}

func (a *goAgent) SetPowerManagement(
	_ context.Context, request *agentpb.SetPowerManagementRequest,
) (*agentpb.SetPowerManagementResponse, error) {
	a.called <- "user " + request.GetIpmi().GetUsername() + " " + request.GetIpmi().GetPassword()

	return nil, status.Errorf(codes.Internal, "no BMC: µ")
}

func (a *goAgent) WipeDisks(ctx context.Context, request *agentpb.WipeDisksRequest) (*agentpb.WipeDisksResponse, error) {
	a.called <- fmt.Sprint("wipe ", request.GetZeroes())

	if request.GetZeroes() {
		// Longer than anybody waits.
		<-ctx.Done()
		a.called <- "cancelled"

		return nil, ctx.Err()
	}

	return &agentpb.WipeDisksResponse{}, nil
}

// TestTheGoAgentIsServedByOurAppliance is our end of the appliance with an agent of Talos' kind.
func TestTheGoAgentIsServedByOurAppliance(t *testing.T) {
	t.Run("plain", func(t *testing.T) { theGoAgentIsServedByOurAppliance(t, false) })
	t.Run("tls", func(t *testing.T) { theGoAgentIsServedByOurAppliance(t, true) })
}

func theGoAgentIsServedByOurAppliance(t *testing.T, encrypted bool) {
	ctx, cancel := context.WithTimeout(t.Context(), bounded)
	defer cancel()

	file := filepath.Join(t.TempDir(), "ca.pem")
	arguments := []string{"appliance", "127.0.0.1:0"}

	if encrypted {
		arguments = append(arguments, file)
	}

	lines := run(t, arguments...)

	address, found := strings.CutPrefix(next(t, ctx, lines), "listening on ")
	if !found {
		t.Fatal("it does not listen")
	}

	transport := insecure.NewCredentials()

	if encrypted {
		roots := x509.NewCertPool()
		text, err := os.ReadFile(file)
		must(t, err)

		if !roots.AppendCertsFromPEM(text) {
			t.Fatal("no authority")
		}

		// As Talos' metal agent has it, whose roots are the machine's.
		transport = credentials.NewTLS(&tls.Config{RootCAs: roots})

		refuses(t, address, &tls.Config{}, "unknown authority")
		refuses(t, address, &tls.Config{RootCAs: roots, MaxVersion: tls.VersionTLS12}, "protocol version")
		refuses(t, address, &tls.Config{RootCAs: roots, ServerName: "10.0.0.1"}, "not 10.0.0.1")
	}

	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(transport))
	must(t, err)

	defer conn.Close()

	agent := &goAgent{called: make(chan string, 64)}
	tunnel := grpctunnel.NewReverseTunnelServer(tunnelpb.NewTunnelServiceClient(conn))
	agentpb.RegisterAgentServiceServer(tunnel, agent)

	// Without a machine id nobody is let in.
	_, err = tunnel.Serve(ctx)
	if status.Code(err) != codes.InvalidArgument {
		t.Fatalf("without a machine id: %v", err)
	}

	served := make(chan error, 1)

	go func() {
		// Twice: a tunnel that dies and comes back.
		_, err := tunnel.Serve(metadata.AppendToOutgoingContext(ctx, "machine-id", machineID))
		served <- err
	}()

	for _, wanted := range []string{
		"opened " + machineID,
		"hello: ok",
		"power: 10.0.0.8 6230 true",
		"user: Internal no BMC: µ",
		"wipe: ok",
		"wipe with zeroes: DeadlineExceeded",
		"reboot: Unimplemented",
		"hello: ok",
	} {
		if line := next(t, ctx, lines); line != wanted {
			t.Fatalf("%q, not %q", line, wanted)
		}
	}

	for _, wanted := range []string{
		"hello", "power talos-agent", "user talos-agent secret", "wipe false", "wipe true", "cancelled", "hello",
	} {
		if line := next(t, ctx, agent.called); line != wanted {
			t.Fatalf("the agent was asked %q, not %q", line, wanted)
		}
	}

	// The appliance ends it.
	select {
	case <-served:
	case <-ctx.Done():
		t.Fatal("the tunnel does not end")
	}

	if line := next(t, ctx, lines); line != "closed: the test is over" {
		t.Fatal(line)
	}
}
