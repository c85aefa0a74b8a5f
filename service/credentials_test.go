package service

import (
	"net"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// seen is a connection that went through watch.
type seen struct{ net.Conn }

// TestWatchedCredentials: the handshake's connection is watched, and what it
// learned of the caller stays, also after Clone.
func TestWatchedCredentials(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	inner := insecure.NewCredentials()
	_, want, err := inner.ServerHandshake(a)
	if err != nil {
		t.Fatal(err)
	}
	creds := watched(inner, func(accepted, secured net.Conn) net.Conn {
		if accepted != a || secured != a {
			t.Errorf("watched %v and %v", accepted, secured)
		}
		return seen{secured}
	}, time.Minute)
	for name, c := range map[string]credentials.TransportCredentials{"new": creds, "cloned": creds.Clone()} {
		conn, caller, err := c.ServerHandshake(a)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if conn.(*callerConn).Conn != (seen{a}) {
			t.Errorf("%s: the connection is not watched", name)
		}
		if caller.(connected).AuthInfo != want || caller.(connected).GetCommonAuthInfo().SecurityLevel != credentials.NoSecurity || c.Info() != inner.Info() {
			t.Errorf("%s: the caller is %v, want %v", name, caller, want)
		}
	}
}
