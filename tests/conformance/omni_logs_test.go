package conformance

import (
	"bufio"
	"errors"
	"net"
	"testing"

	"google.golang.org/grpc/codes"
)

// TestOmniMachineLogs sends a kernel log as Talos does and reads it as `omnictl machine-logs` does.
func TestOmniMachineLogs(t *testing.T) {
	// No other machine of the tests is there.
	const address = "127.0.0.77"

	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}

	machine, err := dialer.DialContext(bounded(t), "tcp", environment(t, "KERNEL_LOGS"))
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { machine.Close() })

	send := func(line string) {
		if _, err := machine.Write([]byte(line + "\n")); err != nil {
			t.Fatal(err)
		}
	}

	const (
		first  = `{"clock":1,"facility":"kern","msg":"Linux version 6.18","seq":1,"talos-level":"info","talos-time":"2026-11-22T17:00:00Z"}`
		second = `{"clock":2,"facility":"kern","msg":"nvme0n1: p1 p2","seq":2,"talos-level":"warn","talos-time":"2026-11-22T17:00:01Z"}`
	)

	send(first)
	send("<6>no line of Talos")

	admin := adminClient(t, "logs")

	var lines *bufio.Scanner

	eventually(t, "the first line came", func() error {
		reader, err := admin.Management().LogsReader(bounded(t), address, true, -1)
		if err != nil {
			return err
		}

		lines = bufio.NewScanner(reader)
		if !lines.Scan() {
			return errors.Join(errors.New("there is no line"), lines.Err())
		}

		return nil
	})

	if lines.Text() != first {
		t.Errorf("the first line is %q", lines.Text())
	}

	send(second)

	if !lines.Scan() || lines.Text() != second {
		t.Errorf("the second line is %q: %v", lines.Text(), lines.Err())
	}

	reader, err := omniClient(t).Management().LogsReader(bounded(t), address, false, -1)
	if err == nil {
		_, err = reader.Read(make([]byte, 1))
	}

	expect(t, "a provider reads a log", err, codes.PermissionDenied)
}
