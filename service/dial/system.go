package dial

import (
	"context"
	"net"
)

// systemResolver returns Go's own resolver with the system's configuration.
// PreferGo is set here because neither build flags nor GODEBUG can undo it.
func systemResolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: dialServer}
}

// dialServer connects to a DNS server for one exchange. Left alone, an exchange
// that nobody waits for any more holds its goroutine and its socket for as long
// as resolv.conf allows; this one is cut off when ctx ends.
func dialServer(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	if udp, ok := conn.(*net.UDPConn); ok {
		return udpExchange{udp, stop}, nil
	}
	return tcpExchange{conn, stop}, nil
}

// udpExchange is the connection of one exchange. It embeds the concrete type,
// because net.Resolver takes what is not a net.PacketConn for a stream.
type udpExchange struct {
	*net.UDPConn
	stop func() bool
}

func (e udpExchange) Close() error {
	e.stop()
	return e.UDPConn.Close()
}

// tcpExchange is the connection of one exchange whose answer was too long for
// UDP.
type tcpExchange struct {
	net.Conn
	stop func() bool
}

func (e tcpExchange) Close() error {
	e.stop()
	return e.Conn.Close()
}
