package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jhump/grpctunnel/tunnelpb"
	"google.golang.org/grpc"
)

// authority signs as the Go provider's does: an authority of its own, a certificate for an address.
type authority struct {
	file string
	leaf tls.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()

	template := func(serial int64) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial),
			Subject:      pkix.Name{Organization: []string{"an authority"}},
			NotBefore:    time.Now(),
			NotAfter:     time.Now().Add(time.Hour),
		}
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)

	ca := template(1)
	ca.IsCA = true
	ca.BasicConstraintsValid = true
	ca.KeyUsage = x509.KeyUsageCertSign
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	must(t, err)

	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)

	leaf := template(2)
	leaf.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	leaf.KeyUsage = x509.KeyUsageKeyEncipherment | x509.KeyUsageDigitalSignature
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, leafKey.Public(), key)
	must(t, err)

	file := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), 0o600))

	return &authority{file: file, leaf: tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: leafKey}}
}

// serve serves the tunnel as the Go provider does, with TLS behind net/http; what it returns stops it.
func serve(service tunnelpb.TunnelServiceServer, listener net.Listener, ca *authority) func() {
	server := grpc.NewServer()
	tunnelpb.RegisterTunnelServiceServer(server, service)

	if ca == nil {
		go server.Serve(listener) //nolint:errcheck // it is stopped

		return server.Stop
	}

	encrypted := &http.Server{
		Handler: server,
		TLSConfig: &tls.Config{
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &ca.leaf, nil },
			ClientAuth:     tls.NoClientCert,
			MinVersion:     tls.VersionTLS13,
		},
	}

	go encrypted.ServeTLS(listener, "", "") //nolint:errcheck // it is stopped

	return func() { encrypted.Close() } //nolint:errcheck // it is over
}

// refuses dials as nobody should.
func refuses(t *testing.T, address string, config *tls.Config, words string) {
	t.Helper()

	conn, err := tls.Dial("tcp", address, config)
	if err == nil {
		conn.Close()
		t.Fatalf("%q was no reason", words)
	}

	if !strings.Contains(err.Error(), words) {
		t.Fatalf("%v, not %q", err, words)
	}
}
