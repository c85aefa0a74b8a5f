package dial_test

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fetchgate/fetchgate/service/dial"
	"github.com/fetchgate/fetchgate/service/fetch"
)

func TestKeepalive(t *testing.T) {
	_, port := listen(t, "127.0.0.1")
	d := dial.New(dial.Options{})
	r, err := d.Dial(t.Context(), "127.0.0.1", port, routeTo(nothing), timeouts, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Conn.Close()
	raw, err := r.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []struct {
		name                string
		level, option, want int
	}{
		{"SO_KEEPALIVE", syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1},
		{"TCP_KEEPIDLE", syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, 15},
		{"TCP_KEEPINTVL", syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, 15},
		{"TCP_NODELAY", syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1},
	} {
		var got int
		var optErr error
		if err := raw.Control(func(fd uintptr) { got, optErr = syscall.GetsockoptInt(int(fd), o.level, o.option) }); err != nil || optErr != nil {
			t.Fatal(err, optErr)
		}
		if got != o.want {
			t.Errorf("%s is %d, want %d", o.name, got, o.want)
		}
	}
}

// blackhole returns a loopback port whose listener never accepts and whose
// queue is full, so that the kernel drops every further SYN.
func blackhole(t *testing.T) uint16 {
	t.Helper()
	ln, port := listen(t, "127.0.0.1")
	raw, err := ln.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var listenErr error
	if err := raw.Control(func(fd uintptr) { listenErr = syscall.Listen(int(fd), 0) }); err != nil || listenErr != nil {
		t.Fatal(err, listenErr)
	}
	for range 8 {
		conn, err := net.DialTimeout("tcp", ln.Addr().String(), 100*time.Millisecond)
		if err != nil {
			return port
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	t.Skip("the queue of the listener does not fill")
	return 0
}

func TestConnectTimeoutOfARealSocket(t *testing.T) {
	port := blackhole(t)
	short := timeouts
	short.Connect = 50 * time.Millisecond
	r, err := dial.New(dial.Options{}).Dial(t.Context(), "127.0.0.1", port, routeTo(nothing), short, 4)
	isFailure(t, err, fetch.ReasonConnectTimeout)
	if r.Connect < short.Connect || r.Connect > time.Second || r.Dials != 1 {
		t.Errorf("result is %+v, want one dial of %s", r, short.Connect)
	}
}

func TestCancelInARealConnectLeavesNothing(t *testing.T) {
	port := blackhole(t)
	leaks := goleak.IgnoreCurrent()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	r, err := dial.New(dial.Options{}).Dial(ctx, "127.0.0.1", port, routeTo(nothing), timeouts, 4)
	var f *fetch.Failure
	if !errors.Is(err, context.DeadlineExceeded) || errors.As(err, &f) {
		t.Errorf("error is %v, want that of the context", err)
	}
	if r.Connect > time.Second {
		t.Errorf("connect took %s after a deadline of 50ms", r.Connect)
	}
	goleak.VerifyNone(t, leaks)
}
