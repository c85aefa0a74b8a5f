package caller

import (
	"crypto/sha256"
	"sync"
	"time"
)

// maxSeen is how many JWTs are remembered at once, twice over.
const maxSeen = 4096

// verified is a JWT that was good, for as long as its issuer has the same keys.
type verified struct {
	proof proof
	by    *issuer
	keys  *keySet
	until time.Time
}

// seenJWTs remembers JWTs that were good by their digests: a caller shows the
// same one with each RPC, and to verify a signature costs more than all the rest
// of finding out who calls.
type seenJWTs struct {
	mu sync.Mutex
	// latest takes what is new; when it is full it becomes earlier, and what was
	// not asked for since is forgotten.
	latest, earlier map[[sha256.Size]byte]verified
}

// find returns the proof of a JWT that would be verified with the same keys
// again.
func (s *seenJWTs) find(digest [sha256.Size]byte, now time.Time) (proof, bool) {
	s.mu.Lock()
	v, ok := s.latest[digest]
	if !ok {
		if v, ok = s.earlier[digest]; ok {
			s.put(digest, v)
		}
	}
	s.mu.Unlock()
	if !ok || !now.Before(v.until) || v.by.keys.latest() != v.keys {
		return proof{}, false
	}
	return v.proof, true
}

func (s *seenJWTs) add(digest [sha256.Size]byte, v verified) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(digest, v)
}

// put is called with the lock held.
func (s *seenJWTs) put(digest [sha256.Size]byte, v verified) {
	if s.latest == nil || len(s.latest) >= maxSeen {
		s.latest, s.earlier = map[[sha256.Size]byte]verified{}, s.latest
	}
	s.latest[digest] = v
}
