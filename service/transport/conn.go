package transport

import (
	"container/list"
	"math"
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
	born  time.Time // when the pool got it
	group *group

	// The pool guards these.
	streams int  // requests under way
	limit   int  // the most of them, as far as is known
	retired bool // closes when its work is done
	// why it was retired; empty while it was not.
	why    fetch.CloseCause
	gone   bool      // is closed
	paused time.Time // takes none until then
	idleAt time.Time
	idle   *list.Element // in pool.idle; nil while streams > 0
}

// unlimited is the limit of a connection that none is known of.
const unlimited = math.MaxInt

// hasRoom tells whether c may carry one more request.
func (c *conn) hasRoom() bool { return !c.retired && c.streams < c.limit }

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
