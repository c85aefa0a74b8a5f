package policy

import (
	"net/netip"
	"sync/atomic"

	"github.com/fetchgate/fetchgate/service/iana"
)

// need is a dangerous_ setting of its rule that a hop can need, one bit each.
type need = uint32

const (
	needsLoopback need = 1 << iota
	needsMetadata
	needsOwn
	needsDowngrade
	needCount = iota
)

// needNames are the settings, in the order of the bits.
var needNames = [needCount]string{
	"dangerous_allow_loopback", "dangerous_allow_metadata", "dangerous_allow_own_listeners", "dangerous_allow_downgrade",
}

// needLists are the names of every set of needs, so that Dangerous allocates
// nothing.
var needLists = func() (lists [1 << needCount][]string) {
	for set := range lists {
		for bit, name := range needNames {
			if set&(1<<bit) != 0 {
				lists[set] = append(lists[set], name)
			}
		}
	}
	return lists
}()

// needs notes what a hop needed of the dangerous_ settings that its rule has.
type needs struct {
	policy *Policy
	opened *opened
	noted  atomic.Uint32
}

// newNeeds are the needs of a hop to q by name; nil if its rule has no such
// setting for what it dials.
func (p *Policy) newNeeds(q *question, o *opened) *needs {
	if !o.loopback && !o.metadata && !o.own {
		return nil
	}
	n := &needs{policy: p, opened: o}
	switch {
	case q.isLiteral():
		n.note(netip.AddrPortFrom(q.literal, q.origin.Port))
	case q.kind == loopbackName:
		n.noted.Or(needsLoopback)
	case q.kind == metadataName:
		n.noted.Or(needsMetadata)
	}
	return n
}

// note takes an address that was allowed.
func (n *needs) note(to netip.AddrPort) {
	class := n.policy.table.Classify(to.Addr())
	switch {
	case class == iana.Loopback && n.opened.loopback:
		n.noted.Or(needsLoopback)
	case class == iana.Metadata && n.opened.metadata:
		n.noted.Or(needsMetadata)
	}
	if n.opened.own {
		if isOwn, err := n.policy.isOwn(to, class); isOwn || err != nil {
			n.noted.Or(needsOwn)
		}
	}
}

// noting returns allow such that what it allows is noted.
func (n *needs) noting(allow func(netip.AddrPort) error) func(netip.AddrPort) error {
	return func(to netip.AddrPort) error {
		err := allow(to)
		if err == nil {
			n.note(to)
		}
		return err
	}
}

// Dangerous returns the dangerous_ settings of the rule without which the hop
// would have been denied, as far as it came: those for its host, for the
// addresses that Allow was asked about and for remote, the address of its
// connection, which is not valid if it had none. downgraded tells that a redirect
// led here from https to http. The list is not to be changed.
func (d Decision) Dangerous(remote netip.AddrPort, downgraded bool) []string {
	var set need
	if d.needs != nil {
		if remote.IsValid() {
			d.needs.note(remote) // of a pooled connection, Allow was not asked
		}
		set = d.needs.noted.Load()
	}
	if downgraded && d.AllowDowngrade {
		set |= needsDowngrade
	}
	return needLists[set]
}
