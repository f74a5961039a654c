// Package conformance holds bootlace's hub against the clients that Omni has: the state suite of the COSI
// runtime and Omni's own Go client. It needs a running appliance; run.sh starts one.
package conformance

import (
	"context"
	"flag"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
)

// callTime bounds one call or one wait. The appliance is on this machine.
const callTime = 10 * time.Second

var socket = flag.String("socket", os.Getenv("BOOTLACE_SOCKET"), "operator socket of the appliance")

// dialOperator connects to the operator socket, which asks for no signature. Compressed, as Omni's client does.
func dialOperator(t *testing.T) *grpc.ClientConn {
	t.Helper()

	if *socket == "" {
		t.Fatal("no operator socket: give -socket or set BOOTLACE_SOCKET")
	}

	conn, err := grpc.NewClient("unix://"+*socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.UseCompressor(gzip.Name)),
	)
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { conn.Close() })

	return conn
}

// bounded is a context that ends with the test or after callTime.
func bounded(t *testing.T) context.Context {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	t.Cleanup(cancel)

	return ctx
}
