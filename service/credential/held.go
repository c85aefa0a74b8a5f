package credential

import (
	"fmt"
	"log/slog"
	"maps"
	"sync/atomic"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// Binding says where a credential may go.
type Binding interface {
	// For reports whether that caller may use it at all.
	For(who fetch.Caller) bool
	// Fits reports whether it may go with a request of that caller, method and
	// destination.
	Fits(who fetch.Caller, method string, to fetch.Destination) bool
}

// source is one of the two secrets of a held credential.
type source int

const (
	current source = iota
	next
	sources
)

// held is a credential that the server holds.
type held struct {
	name, kind string
	place      fetch.CredentialPlace
	binding    Binding
	log        *slog.Logger
	// read makes the proofs; that of next is nil where there is none, and gives
	// none while its file is not there.
	read [sources]func() (*proof, error)
	// nextFile is where the next secret is read from; empty: there is none.
	nextFile string

	state atomic.Pointer[state]
	// looked is when the files were looked at, in nanoseconds.
	looked atomic.Int64
	// failing is what was said of files that cannot be used; nil if they can.
	failing atomic.Pointer[string]
}

// state is what a held credential proves with. It does not change.
type state struct {
	proofs [sources]*proof
	// ahead are the origins that took the next one last, at most maxAhead.
	ahead map[fetch.Origin]bool
	// last is the newest version of a secret.
	last int64
	// awaits tells that the file of the next secret is not there.
	awaits bool
}

// maxAhead is how many origins are remembered. One that is forgotten answers 401
// once more.
const maxAhead = 1000

var _ fetch.Credential = (*held)(nil)

// lookEvery is how long a secret is used before its files are looked at again,
// unless an upstream does not take it.
const lookEvery = time.Second

// Name implements fetch.Credential.
func (h *held) Name() string { return h.name }

// Kind implements fetch.Credential.
func (h *held) Kind() string { return h.kind }

// Place implements fetch.Credential.
func (h *held) Place() fetch.CredentialPlace { return h.place }

// For implements fetch.Credential.
func (h *held) For(who fetch.Caller) bool { return h.binding.For(who) }

// Fits implements fetch.Credential.
func (h *held) Fits(who fetch.Caller, method string, to fetch.Destination) bool {
	return to.Scheme == "https" && h.binding.Fits(who, method, to)
}

// Proof implements fetch.Credential.
func (h *held) Proof(to fetch.Origin) fetch.Proof {
	h.look(lookEvery)
	s := h.state.Load()
	if p := s.proofs[next]; p != nil && s.ahead[to] {
		return p
	}
	return s.proofs[current]
}

// Other implements fetch.Credential. Where the secret has changed since, it is
// the one of now.
func (h *held) Other(p fetch.Proof) fetch.Proof {
	h.look(0)
	s := h.state.Load()
	of := current
	if s.proofs[current].version == p.Version() {
		of = next
	}
	if other := s.proofs[of]; other != nil && other.version != p.Version() {
		return other
	}
	return nil
}

// Taken implements fetch.Credential.
func (h *held) Taken(p fetch.Proof, by fetch.Origin) {
	for {
		s := h.state.Load()
		n := s.proofs[next]
		isNext := n != nil && n.version == p.Version()
		if s.ahead[by] == isNext {
			return
		}
		changed := *s
		changed.ahead = map[fetch.Origin]bool{}
		if len(s.ahead) < maxAhead {
			maps.Copy(changed.ahead, s.ahead)
		}
		delete(changed.ahead, by)
		if isNext {
			changed.ahead[by] = true
		}
		if h.state.CompareAndSwap(s, &changed) {
			h.log.Info("an upstream takes another secret of a credential", "credential", h.name, "origin", by.String(), "version", p.Version())
			return
		}
	}
}

// look reads the files again, unless that was done within the time given or is
// being done. What can no longer be used stays as it was.
func (h *held) look(every time.Duration) {
	now, looked := time.Now().UnixNano(), h.looked.Load()
	if now-looked < int64(every) || !h.looked.CompareAndSwap(looked, now) {
		return
	}
	_ = h.refresh() // is logged
}

// refresh reads the files again.
func (h *held) refresh() error {
	before := h.state.Load()
	after, err := h.load(before)
	if err != nil {
		message := err.Error()
		if last := h.failing.Swap(&message); last == nil || *last != message {
			h.log.Error("the secret of a credential cannot be read again; the last one is used on", "credential", h.name, "err", err)
		}
		return err
	}
	h.failing.Store(nil)
	isSame := after.last == before.last && after.proofs == before.proofs
	if isSame && after.awaits == before.awaits || !h.state.CompareAndSwap(before, after) {
		return nil
	}
	h.tellNext(before, after)
	if !isSame {
		h.log.Info("the secrets of a credential have changed", "credential", h.name, "version", after.proofs[current].version)
	}
	return nil
}

// tellNext tells that the file of the next secret has come or gone since before,
// which may be nil. That it is not there is no fault: it can be a wrong name.
func (h *held) tellNext(before, after *state) {
	was := before != nil && before.awaits
	switch {
	case after.awaits && !was:
		h.log.Info("the next_file of a credential is not there; it is read as soon as it is", "credential", h.name, "file", h.nextFile)
	case was && !after.awaits:
		h.log.Info("the next_file of a credential is there now", "credential", h.name, "file", h.nextFile)
	}
}

// load returns the state after before, which may be nil: a secret that was there
// keeps its proof and version, whichever of the two it is now.
func (h *held) load(before *state) (*state, error) {
	after := &state{}
	if before != nil {
		after.last = before.last
	}
	for of, read := range h.read {
		if read == nil {
			continue
		}
		p, err := read()
		if err != nil {
			return nil, err
		}
		after.awaits = p == nil
		if p == nil || source(of) == next && p.same(after.proofs[current]) {
			continue
		}
		if known := before.find(p); known != nil {
			p = known
		} else {
			after.last++
			p.version = after.last
		}
		after.proofs[of] = p
	}
	if before != nil && after.proofs == before.proofs {
		after.ahead = before.ahead
	}
	return after, nil
}

// find returns the proof with the secret of p; nil if s has none.
func (s *state) find(p *proof) *proof {
	if s == nil {
		return nil
	}
	for _, known := range s.proofs {
		if p.same(known) {
			return known
		}
	}
	return nil
}

// same tells whether two proofs send the same.
func (p *proof) same(other *proof) bool {
	return other != nil && p.place == other.place && p.value.equal(other.value) && p.identityID == other.identityID
}

// String names the credential.
func (h *held) String() string { return fmt.Sprintf("%s %s %s", h.kind, h.name, hidden) }

// GoString is String.
func (h *held) GoString() string { return h.String() }

// Format prints String, for every verb.
func (h *held) Format(s fmt.State, _ rune) { fmt.Fprint(s, h.String()) }

// LogValue is String.
func (h *held) LogValue() slog.Value { return slog.StringValue(h.String()) }

// MarshalJSON is String.
func (h *held) MarshalJSON() ([]byte, error) { return []byte(`"` + h.String() + `"`), nil }
