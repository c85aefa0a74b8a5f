package fetchtest

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// FaultKind is the harm that a [Relay] does to a connection.
type FaultKind int

// The faults.
const (
	// FaultNone does no harm.
	FaultNone FaultKind = iota
	// FaultReset ends the connection with a TCP reset.
	FaultReset
	// FaultTruncate ends the connection in order (FIN).
	FaultTruncate
	// FaultHalfClose ends one direction in order; the other one goes on.
	FaultHalfClose
	// FaultDelay holds everything that follows back for Fault.Pause, once.
	FaultDelay
	// FaultDrip lets what follows through in pieces of 1 to 16 bytes, with
	// Fault.Pause between them.
	FaultDrip
	// FaultCorrupt changes one bit of the byte that follows.
	FaultCorrupt
)

// FaultKinds are all the faults that do harm.
var FaultKinds = []FaultKind{FaultReset, FaultTruncate, FaultHalfClose, FaultDelay, FaultDrip, FaultCorrupt}

func (k FaultKind) String() string {
	return [...]string{"none", "reset", "truncate", "half close", "delay", "drip", "corrupt"}[k]
}

// Fault is what a [Relay] does to one connection.
type Fault struct {
	Kind FaultKind
	// After is how many bytes pass before it.
	After int64
	// Up harms what goes to the upstream, else what comes from it.
	Up bool
	// Pause is for FaultDelay and FaultDrip.
	Pause time.Duration
	// Seed chooses the pieces of FaultDrip and the bit of FaultCorrupt.
	Seed uint64
}

// Relay passes connections on to an upstream, and does harm on the way. It is
// an Upstream of its own as far as its connections are counted.
type Relay struct {
	*Upstream
	to    string
	fault func(connection int) Fault
}

// NewRelay starts a relay to an upstream, TLS or not. fault is asked once for
// each connection, by its number.
func NewRelay(t testing.TB, to *Upstream, fault func(connection int) Fault) *Relay {
	t.Helper()
	r := &Relay{Upstream: newUpstream(t, Listen{}, to.config), to: to.Addr().String(), fault: fault}
	r.running.Go(func() {
		for {
			w, err := r.accept()
			if err != nil {
				return
			}
			r.running.Go(func() { r.relay(w) })
		}
	})
	return r
}

// relay serves one connection until both directions have ended.
func (r *Relay) relay(from *wire) {
	defer from.Close()
	conn, err := net.Dial("tcp", r.to)
	if err != nil {
		return
	}
	to := conn.(*net.TCPConn)
	defer to.Close()
	caller := from.Conn.(*net.TCPConn)
	fault := r.fault(from.number)
	none := Fault{}
	down, up := &fault, &none
	if fault.Up {
		down, up = up, down
	}
	r.running.Go(func() {
		// Who asks has gone: nobody wants the rest.
		<-from.ended
		to.Close()
	})
	ended := make(chan struct{})
	r.running.Go(func() {
		defer close(ended)
		pass(to, from, up, caller, to)
	})
	pass(caller, to, down, caller, to)
	<-ended
}

// pass copies from one side to the other until that ends, and does the harm.
// both are the ends of the connection.
func pass(to *net.TCPConn, from io.Reader, f *Fault, both ...*net.TCPConn) {
	err := f.harm(to, from)
	switch {
	case errors.Is(err, errReset):
		for _, c := range both {
			c.SetLinger(0)
			c.Close()
		}
	case errors.Is(err, errTruncated):
		for _, c := range both {
			c.Close()
		}
	default:
		to.CloseWrite()
	}
}

var (
	errReset     = errors.New("the relay reset the connection")
	errTruncated = errors.New("the relay ended the connection")
)

// harm copies what passes before the fault, and then does it.
func (f *Fault) harm(to io.Writer, from io.Reader) error {
	if f.Kind != FaultNone {
		if _, err := io.CopyN(to, from, f.After); err != nil {
			return err
		}
	}
	random := rand.New(rand.NewPCG(f.Seed, 1))
	switch f.Kind {
	case FaultReset:
		return errReset
	case FaultTruncate:
		return errTruncated
	case FaultHalfClose:
		return nil
	case FaultDelay:
		wait(f.Pause)
	case FaultDrip:
		return f.drip(to, from, random)
	case FaultCorrupt:
		var one [1]byte
		if _, err := io.ReadFull(from, one[:]); err != nil {
			return err
		}
		one[0] ^= 1 << random.IntN(8)
		if _, err := to.Write(one[:]); err != nil {
			return err
		}
	}
	_, err := io.Copy(to, from)
	return err
}

func (f *Fault) drip(to io.Writer, from io.Reader, random *rand.Rand) error {
	for {
		if _, err := io.CopyN(to, from, 1+random.Int64N(16)); err != nil {
			return err
		}
		wait(f.Pause)
	}
}

func wait(d time.Duration) {
	if d > 0 {
		<-time.After(d)
	}
}
