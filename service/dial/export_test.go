package dial

import (
	"context"
	"net"
	"strings"
)

// SystemResolver returns the resolver of a service, asking the DNS server at
// udp and tcp instead of those of the system.
func SystemResolver(udp, tcp string) *net.Resolver {
	r := systemResolver()
	system := r.Dial
	r.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		if strings.HasPrefix(network, "tcp") {
			return system(ctx, network, tcp)
		}
		return system(ctx, network, udp)
	}
	return r
}
