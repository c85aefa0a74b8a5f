package fetchtest

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// errOver is what a step returns after which there is no connection any more.
var errOver = errors.New("the step ended the connection")

// Step is one thing that an upstream does on a connection. An error ends the
// connection and the steps after it. A step that waits must end when
// [Conn.Ended] is closed.
type Step func(*Conn) error

// NewScript starts an upstream that takes these steps on every connection. It
// reads nothing unless [Request] is one of them. After the last step it does
// what [HalfClose] does.
func NewScript(t testing.TB, l Listen, steps ...Step) *Upstream {
	t.Helper()
	u := newUpstream(t, l, l.tls("http/1.1"))
	script := Steps(Steps(steps...), HalfClose())
	u.serve(func(c *Conn) { _ = script(c) })
	return u
}

// Steps takes one step after the other.
func Steps(steps ...Step) Step {
	return func(c *Conn) error {
		for _, step := range steps {
			if err := step(c); err != nil {
				return err
			}
		}
		return nil
	}
}

// PerConnection takes the first step on the first connection, the second on the
// second, and the last one on all that follow.
func PerConnection(steps ...Step) Step {
	return func(c *Conn) error { return steps[min(c.Number(), len(steps))-1](c) }
}

// Request reads one HTTP/1.1 request. A request that is not one ends the
// connection.
func Request() Step {
	return func(c *Conn) error {
		r := &Recorded{Conn: c.Number()}
		c.request = r
		p := parser{source: c, request: r}
		if err := p.head(); err != nil {
			return err
		}
		if err := p.body(); err != nil {
			return err
		}
		c.readAhead()
		return nil
	}
}

// Write writes text in one piece, or as [Listen] splits it. The text may hold
// any bytes.
func Write(text string) Step {
	return func(c *Conn) error {
		_, err := c.Write([]byte(text))
		return err
	}
}

// Dribble writes text byte by byte. Over TLS each byte is a record and a reader
// gets them one at a time; over TCP it may find some together.
func Dribble(text string) Step {
	return func(c *Conn) error {
		for i := range len(text) {
			if _, err := c.Write([]byte{text[i]}); err != nil {
				return err
			}
		}
		return nil
	}
}

// Repeat writes text n times.
func Repeat(n int, text string) Step {
	const batch = 32 << 10
	many := min(n, max(1, batch/max(1, len(text))))
	return func(c *Conn) error {
		block := []byte(strings.Repeat(text, many))
		for left := n; left > 0; left -= many {
			if _, err := c.Write(block[:min(left, many)*len(text)]); err != nil {
				return err
			}
		}
		return nil
	}
}

// Forever writes text again and again until the connection is over.
func Forever(text string) Step {
	more := Repeat(1<<10, text)
	return func(c *Conn) error {
		for {
			if err := more(c); err != nil {
				return err
			}
		}
	}
}

// Pause waits until the channel is closed or gives a value. It ends the steps
// when the connection is over before.
func Pause(until <-chan struct{}) Step {
	return func(c *Conn) error {
		select {
		case <-until:
			return nil
		case <-c.Ended():
			return errOver
		}
	}
}

// Hang does nothing until the connection is over.
func Hang() Step { return Pause(nil) }

// Reset ends the connection with a TCP RST (RFC 9293 section 3.5.2). As the
// first step it may come so early that the peer fails to connect.
func Reset() Step {
	return func(c *Conn) error {
		if err := c.wire.reset(); err != nil {
			return err
		}
		return errOver
	}
}

// HalfClose ends what the upstream sends, as a server does that closes a
// connection: a close_notify alert where it speaks TLS (RFC 8446 section 6.1),
// then a FIN. It waits until the peer has closed too; there is no next step.
func HalfClose() Step {
	return func(c *Conn) error {
		if secure, ok := c.Conn.(*tls.Conn); ok {
			if err := secure.CloseWrite(); err != nil {
				return err
			}
		}
		return CloseWithoutNotify()(c)
	}
}

// CloseWithoutNotify does what [HalfClose] does, but without the close_notify
// alert, as if an attacker had cut the connection. crypto/tls reports io.EOF for
// both, so a client built on it has to look closer. On plain TCP both are the same.
func CloseWithoutNotify() Step {
	return func(c *Conn) error {
		if err := c.wire.closeWrite(); err != nil {
			return err
		}
		c.drain()
		return errOver
	}
}

// Answer writes a whole response with that status, the given field lines
// ("Name: value"), a Content-Length and the body. It leaves the body out where
// HTTP has none: for a HEAD request and for statuses 1xx, 204 and 304 (RFC 9110
// sections 6.4.1 and 8.6), the last of which get no Content-Length either.
func Answer(status int, body string, lines ...string) Step {
	var head strings.Builder
	fmt.Fprintf(&head, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	for _, line := range lines {
		head.WriteString(line + "\r\n")
	}
	bodiless := status < 200 || status == http.StatusNoContent || status == http.StatusNotModified
	if !bodiless {
		fmt.Fprintf(&head, "Content-Length: %d\r\n", len(body))
	}
	head.WriteString("\r\n")
	return func(c *Conn) error {
		if bodiless || c.request != nil && c.request.Method == http.MethodHead {
			return Write(head.String())(c)
		}
		return Write(head.String() + body)(c)
	}
}
