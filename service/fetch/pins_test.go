package fetch_test

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetch"
)

func TestPins(t *testing.T) {
	a, b, c := sha256.Sum256([]byte("a")), sha256.Sum256([]byte("b")), sha256.Sum256([]byte("c"))
	pins := fetch.NewPins([][sha256.Size]byte{b, a, b})
	if !pins.Has(a) || !pins.Has(b) || pins.Has(c) || fetch.NewPins(nil).Has(a) {
		t.Errorf("the pins are %x", pins)
	}
	if pins != fetch.NewPins([][sha256.Size]byte{a, b}) || pins == fetch.NewPins([][sha256.Size]byte{a}) || fetch.NewPins(nil) != "" {
		t.Error("pins are not what their keys are")
	}
}

// TestTLSSettingsWith: a profile asks for more, never for less.
func TestTLSSettingsWith(t *testing.T) {
	server := fetch.TLSSettings{Roots: x509.NewCertPool(), RootsID: "system", MinVersion: tls.VersionTLS13}
	own := x509.NewCertPool()
	own.AppendCertsFromPEM(nil)
	if got := server.With(nil); got != server {
		t.Errorf("no profile gives %+v", got)
	}
	if got := server.With(&fetch.TLSSettings{MinVersion: tls.VersionTLS12}); got != server {
		t.Errorf("a profile with a lower version gives %+v", got)
	}
	want := fetch.TLSSettings{Roots: own, RootsID: "only", MinVersion: tls.VersionTLS13, Pins: "pin"}
	low := fetch.TLSSettings{Roots: server.Roots, RootsID: "system", MinVersion: tls.VersionTLS12}
	if got := low.With(&fetch.TLSSettings{Roots: own, RootsID: "only", MinVersion: tls.VersionTLS13, Pins: "pin"}); got != want {
		t.Errorf("a profile gives %+v", got)
	}
}
