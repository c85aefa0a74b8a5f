package fetch

// PoolStats is what the pool of a transport holds and has done.
type PoolStats struct {
	// Open counts the connections by state and protocol.
	Open map[PoolState]int
	// Dialing counts the dials under way.
	Dialing int
	// Closed counts the connections that ended, by why.
	Closed map[CloseCause]int64
}

// PoolState is the state of a connection: "idle" or "active", and "h1" or "h2".
type PoolState struct{ State, Protocol string }

// CloseCause is why a connection ended.
type CloseCause string

// Why connections end.
const (
	ClosedIdle   CloseCause = "idle"   // too long without work, or one too many
	ClosedAge    CloseCause = "age"    // the end of its lifetime
	ClosedError  CloseCause = "error"  // broken, or cut in the middle of an exchange
	ClosedPolicy CloseCause = "policy" // withdrawn, or its fetch said so
	ClosedPeer   CloseCause = "peer"   // the upstream closed it
)
