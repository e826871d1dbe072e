package kafka_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/kafka/kafkatest"
)

// selfSigned writes a certificate for brokers.test, which is its own authority, and its key.
func selfSigned(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "brokers.test"}, DNSNames: []string{"brokers.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func TestTLSWithAClientCertificate(t *testing.T) {
	t.Parallel()
	certFile, keyFile := selfSigned(t)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	authority := x509.NewCertPool()
	authority.AddCert(pair.Leaf)
	_, config := kafkatest.Start(t, kfake.TLS(&tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientCAs: authority, ClientAuth: tls.RequireAndVerifyClientCert,
	}))
	good := kafka.TLS{Enabled: true, CAFile: certFile, CertFile: certFile, KeyFile: keyFile, ServerName: "brokers.test"}
	otherCert, _ := selfSigned(t)
	for name, c := range map[string]struct {
		change func(*kafka.TLS)
		want   string // empty: it works
	}{
		"right":          {func(*kafka.TLS) {}, ""},
		"plain text":     {func(s *kafka.TLS) { *s = kafka.TLS{} }, "do both sides agree on TLS and SASL"},
		"other name":     {func(s *kafka.TLS) { s.ServerName = "elsewhere.test" }, "certificate is valid for brokers.test, not elsewhere.test"},
		"other trust":    {func(s *kafka.TLS) { s.CAFile = otherCert }, "certificate signed by unknown authority"},
		"no certificate": {func(s *kafka.TLS) { s.CertFile, s.KeyFile = "", "" }, "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := config
			config.RequestTimeout = 5 * time.Second
			config.TLS = good
			c.change(&config.TLS)
			admin, err := kafka.NewAdmin(config)
			if err != nil {
				t.Fatal(err)
			}
			defer admin.Close()
			err = admin.Ping(t.Context())
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q in it", err, c.want)
			case c.want != "" && errors.Is(err, kafka.ErrUnauthorized):
				t.Errorf("%v is not about what the user may do", err)
			}
		})
	}
}
