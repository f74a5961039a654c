// Package wireguard holds our end of the tunnel against wireguard-go, and our WireGuard over gRPC against
// SideroLink's own.
package wireguard

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/siderolabs/siderolink/pkg/wgtunnel/wgbind"
	"github.com/siderolabs/siderolink/pkg/wgtunnel/wggrpc"
	"go.uber.org/zap"
	"golang.org/x/crypto/curve25519"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	patience = 30 * time.Second
	mtu      = 1280
	stream   = "[fdae::4:2]:50889"
)

var (
	hub     = netip.MustParseAddr("fdae::1")
	machine = netip.MustParseAddr("fdae::2")
)

// The machine's key: any 32 bytes are one.
func key() [32]byte {
	return [32]byte(bytes.Repeat([]byte{7}, 32))
}

// Ours, as a process; what it says of itself.
func start(t *testing.T) map[string]string {
	t.Helper()

	private := key()

	public, err := curve25519.X25519(private[:], curve25519.Basepoint)
	if err != nil {
		t.Fatal(err)
	}

	binary := os.Getenv("SIDEROLINK_ECHO")
	if binary == "" {
		t.Skip("SIDEROLINK_ECHO names no binary; run.sh does")
	}

	command := exec.Command(binary, base64.StdEncoding.EncodeToString(public))
	command.Stderr = os.Stderr

	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}

	if err = command.Start(); err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() {
		command.Process.Kill() //nolint:errcheck
		command.Wait()         //nolint:errcheck
	})

	said := map[string]string{}

	for lines := bufio.NewScanner(output); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), "=")
		if name == "ready" {
			return said
		}

		said[name] = value
	}

	t.Fatal("it ended before it was ready")

	return nil
}

// wireguard-go on this bind, with our end as its peer.
func wireguardGo(t *testing.T, bind conn.Bind, said map[string]string, endpoint string) *netstack.Net {
	t.Helper()

	tun, network, err := netstack.CreateNetTUN([]netip.Addr{machine}, nil, mtu)
	if err != nil {
		t.Fatal(err)
	}

	dev := device.NewDevice(tun, bind, device.NewLogger(device.LogLevelError, "wireguard-go: "))
	t.Cleanup(dev.Close)

	peer, err := base64.StdEncoding.DecodeString(said["key"])
	if err != nil {
		t.Fatal(err)
	}

	private := key()
	config := fmt.Sprintf("private_key=%s\npublic_key=%s\nendpoint=%s\nallowed_ip=%s/128\npersistent_keepalive_interval=25\n",
		hex.EncodeToString(private[:]), hex.EncodeToString(peer), endpoint, hub)

	if err = dev.IpcSet(config); err != nil {
		t.Fatal(err)
	}

	if err = dev.Up(); err != nil {
		t.Fatal(err)
	}

	return network
}

func dial(t *testing.T, network *netstack.Net, port uint16) net.Conn {
	t.Helper()

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()

	connection, err := network.DialContextTCPAddrPort(ctx, netip.AddrPortFrom(hub, port))
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { connection.Close() })         //nolint:errcheck
	connection.SetDeadline(time.Now().Add(patience)) //nolint:errcheck

	return connection
}

// A megabyte there and back, then a connection the other way.
func both(t *testing.T, network *netstack.Net) {
	t.Helper()

	connection := dial(t, network, 7)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 64*1024)

	go connection.Write(sent) //nolint:errcheck

	received := make([]byte, len(sent))
	if _, err := io.ReadFull(connection, received); err != nil {
		t.Fatal(err)
	}

	if !bytes.Equal(sent, received) {
		t.Fatal("what came back is not what was sent")
	}

	listener, err := network.ListenTCPAddrPort(netip.AddrPortFrom(machine, 9))
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { listener.Close() }) //nolint:errcheck
	dial(t, network, 8)

	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}

	accepted.SetDeadline(time.Now().Add(patience)) //nolint:errcheck

	text, err := io.ReadAll(accepted)
	if err != nil || string(text) != "hello from the hub" {
		t.Fatalf("%q, %v", text, err)
	}
}

func TestWireGuardOverUDP(t *testing.T) {
	said := start(t)
	both(t, wireguardGo(t, conn.NewDefaultBind(), said, said["udp"]))
}

func TestWireGuardOverGRPC(t *testing.T) {
	said := start(t)
	queues := wgbind.NewQueuePair(100, 100)
	logger := zap.NewNop()

	relay, err := wggrpc.NewRelayToHost(said["grpc"], time.Second, queues, netip.MustParseAddrPort(stream),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)

	go func() { ended <- relay.Run(ctx, logger) }()

	t.Cleanup(func() {
		cancel()
		<-ended
	})
	both(t, wireguardGo(t, wgbind.NewClientBind(queues, logger), said, stream))
}
