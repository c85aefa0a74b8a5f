package fetchtest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetchtest"
)

func TestConnectRecordsAndRefuses(t *testing.T) {
	r := fetchtest.NewRecordingConnect(t, nil)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		ctx     context.Context
		address string
		want    error
	}{
		{t.Context(), "127.0.0.1:80", syscall.ECONNREFUSED},
		{ended, "[::1]:443", context.Canceled},
	} {
		conn, err := r.Connect(c.ctx, netip.MustParseAddrPort(c.address))
		var op *net.OpError
		if conn != nil || !errors.Is(err, c.want) || !errors.As(err, &op) || op.Addr.String() != c.address {
			t.Errorf("%s: got %v, want %v", c.address, err, c.want)
		}
	}
	if got := fmt.Sprint(r.Addresses()); got != "[127.0.0.1:80 [::1]:443]" {
		t.Errorf("recorded %s", got)
	}
}

func TestConnectGivesAPipe(t *testing.T) {
	r := fetchtest.NewRecordingConnect(t, func(conn net.Conn) { _, _ = io.WriteString(conn, "hello") })
	conn, err := r.Connect(t.Context(), netip.MustParseAddrPort("192.0.2.1:80"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	// This one nobody reads or closes: the end of the test must not wait for it.
	if _, err := r.Connect(t.Context(), netip.MustParseAddrPort("192.0.2.1:80")); err != nil {
		t.Error(err)
	}
}
