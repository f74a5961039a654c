package conformance

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cosi-project/runtime/api/v1alpha1"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/cosi-project/runtime/pkg/state/protobuf/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// appliance is one of the test's own, which it may stop.
type appliance struct {
	t      *testing.T
	dir    string
	socket string
	run    *exec.Cmd
}

func newAppliance(t *testing.T) *appliance {
	t.Helper()

	dir := t.TempDir()
	a := &appliance{t: t, dir: dir, socket: filepath.Join(dir, "bootlace.sock")}
	config := fmt.Sprintf(`
state_dir = %q
[api]
advertise_address = "127.0.0.1"
listen_address = "127.0.0.1"
port = %d
[netboot]
disable_dhcp_proxy = true
tftp_port = %d
[hub]
machine_api_port = %d
api_listen = "127.0.0.1:%d"
kernel_log_port = 0
[boot]
assets_path = %q
`, dir, freePort(t), freePort(t), freePort(t), freePort(t), dir)

	if err := os.WriteFile(filepath.Join(dir, "appliance.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}

	t.Cleanup(a.kill)
	a.start()

	return a
}

func freePort(t *testing.T) int {
	t.Helper()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	defer listener.Close()

	return listener.Addr().(*net.TCPAddr).Port
}

func (a *appliance) start() {
	a.t.Helper()

	binary := os.Getenv("BOOTLACE")
	if binary == "" {
		a.t.Fatal("BOOTLACE is not set: start the tests with run.sh")
	}

	log, err := os.OpenFile(filepath.Join(a.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		a.t.Fatal(err)
	}

	defer log.Close()

	a.run = exec.Command(binary, "run", "-c", filepath.Join(a.dir, "appliance.toml"))
	a.run.Stdout, a.run.Stderr = log, log
	// With them it would link to the other appliance.
	a.run.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "OMNI_") || strings.HasPrefix(variable, "SIDERO_")
	})

	if err = a.run.Start(); err != nil {
		a.t.Fatal(err)
	}

	deadline := time.Now().Add(callTime)

	for {
		conn, err := net.Dial("unix", a.socket)
		if err == nil {
			conn.Close()

			return
		}

		if time.Now().After(deadline) {
			text, _ := os.ReadFile(filepath.Join(a.dir, "log"))
			a.t.Fatalf("it does not start: %v\n%s", err, text)
		}

		time.Sleep(20 * time.Millisecond)
	}
}

// kill ends it without a word, as a power cut does.
func (a *appliance) kill() {
	if a.run == nil {
		return
	}

	_ = a.run.Process.Kill()
	_ = a.run.Wait()
	a.run = nil
}

func (a *appliance) state() state.State {
	a.t.Helper()

	conn, err := grpc.NewClient("unix://"+a.socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1, MaxDelay: 100 * time.Millisecond},
			MinConnectTimeout: callTime,
		}),
	)
	if err != nil {
		a.t.Fatal(err)
	}

	a.t.Cleanup(func() { conn.Close() })

	return state.WrapCore(client.NewAdapter(v1alpha1.NewStateClient(conn)))
}

// TestRestartKeepsWrites kills the hub amid writes: what was answered is there, and the Go client goes on.
func TestRestartKeepsWrites(t *testing.T) {
	a := newAppliance(t)
	st, ctx := a.state(), bounded(t)

	for i := range 50 {
		if err := st.Create(ctx, newStr(fmt.Sprintf("%02d", i), "x")); err != nil {
			t.Fatal(err)
		}
	}

	a.kill()
	a.start()

	eventually(t, "it is back", func() error {
		list, err := st.List(ctx, newStr("", "").Metadata())
		if err == nil && len(list.Items) != 50 {
			t.Fatalf("%d resources are there", len(list.Items))
		}

		return err
	})
}

// TestRestartEndsWatchesThatMissSomething watches over a kill. The client asks again with its bookmark; the hub
// either goes on without a gap or says that the bookmark is gone, upon which Go's controllers start afresh.
func TestRestartEndsWatchesThatMissSomething(t *testing.T) {
	a := newAppliance(t)
	st, ctx := a.state(), bounded(t)

	ch := make(chan []state.Event)
	if err := st.WatchKindAggregated(ctx, newStr("", "").Metadata(), ch, state.WithBootstrapBookmark(true)); err != nil {
		t.Fatal(err)
	}

	if err := st.Create(ctx, newStr("before", "x")); err != nil {
		t.Fatal(err)
	}

	var seen []string

	for len(seen) < 2 {
		for _, event := range <-ch {
			seen = append(seen, event.Type.String())
		}
	}

	a.kill()
	a.start()

	eventually(t, "it is back", func() error {
		err := st.Create(ctx, newStr("after", "x"))
		if state.IsConflictError(err) {
			return nil
		}

		return err
	})

	for {
		select {
		case events := <-ch:
			for _, event := range events {
				switch {
				case event.Type == state.Errored && state.IsInvalidWatchBookmarkError(event.Error):
					return
				case event.Type == state.Errored:
					t.Fatalf("it ends with %v", event.Error)
				case event.Resource.Metadata().ID() == "after":
					return
				default:
					t.Fatalf("it tells %v of %s", event.Type, event.Resource.Metadata())
				}
			}
		case <-ctx.Done():
			t.Fatal("it is silent")
		}
	}
}
