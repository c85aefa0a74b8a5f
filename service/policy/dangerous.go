package policy

import (
	"net/netip"
	"sync/atomic"

	"github.com/fetchgate/fetchgate/service/iana"
)

// The dangerous_ settings of rules that a hop can need.
const (
	settingLoopback  = "dangerous_allow_loopback"
	settingDowngrade = "dangerous_allow_downgrade"
)

// What Dangerous returns: it allocates nothing.
var (
	needsNothing   []string
	needsLoopback  = []string{settingLoopback}
	needsDowngrade = []string{settingDowngrade}
	needsBoth      = []string{settingLoopback, settingDowngrade}
)

// loopback notes whether a hop needed dangerous_allow_loopback of its rule.
type loopback struct {
	table  *iana.Table
	needed atomic.Bool
}

// note takes an address that was allowed.
func (l *loopback) note(to netip.AddrPort) {
	if l.table.Classify(to.Addr()) == iana.Loopback {
		l.needed.Store(true)
	}
}

// noting returns allow such that what it allows is noted.
func (l *loopback) noting(allow func(netip.AddrPort) error) func(netip.AddrPort) error {
	return func(to netip.AddrPort) error {
		err := allow(to)
		if err == nil {
			l.note(to)
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
	if d.loopback != nil && remote.IsValid() {
		d.loopback.note(remote) // of a pooled connection, Allow was not asked
	}
	isLoopback := d.loopback != nil && d.loopback.needed.Load()
	isDowngrade := downgraded && d.AllowDowngrade
	switch {
	case isLoopback && isDowngrade:
		return needsBoth
	case isLoopback:
		return needsLoopback
	case isDowngrade:
		return needsDowngrade
	}
	return needsNothing
}
