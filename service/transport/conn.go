package transport

import (
	"container/list"
	"net"
	"net/netip"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// conn is a connection to an upstream with its engine.
type conn struct {
	sock *socket
	// net is sock, or TLS over it.
	net      net.Conn
	engine   engine
	remote   netip.AddrPort
	protocol string
	tls      *fetch.TLSFacts
	// asked tells that the upstream asked for a client certificate.
	asked bool
	dies  time.Time
	group *group

	// The pool guards these.
	streams int  // requests under way
	full    bool // took no more when it was last asked
	retired bool // closes when its work is done
	gone    bool // is closed
	idleAt  time.Time
	idle    *list.Element // in pool.idle; nil while streams > 0
}

// closeNotifyTime is how long the end of a connection may wait for the upstream
// to take TLS's close_notify.
const closeNotifyTime = 250 * time.Millisecond

// hangUp closes a connection without work, as the protocols ask for it.
func (c *conn) hangUp() {
	t := time.AfterFunc(closeNotifyTime, c.cut)
	defer t.Stop()
	c.net.Close()
}

// cut closes the connection at once.
func (c *conn) cut() { c.sock.Close() }
