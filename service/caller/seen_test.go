package caller

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// TestSeenJWTsAreBounded: as many are remembered as there is room for, and what
// is asked for stays.
func TestSeenJWTsAreBounded(t *testing.T) {
	keys := &keyFile{now: time.Now, looked: time.Now()}
	set := &keySet{}
	keys.current.Store(set)
	v := verified{by: &issuer{keys: keys}, keys: set, until: time.Now().Add(time.Hour), proof: proof{of: &fetch.Caller{Name: "a"}}}
	digest := func(i int) [sha256.Size]byte {
		return sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
	}
	var s seenJWTs
	s.add(digest(0), v)
	for i := range 5 * maxSeen {
		s.add(digest(i+1), v)
		if n := len(s.latest) + len(s.earlier); n > 2*maxSeen {
			t.Fatalf("%d are remembered, more than %d", n, 2*maxSeen)
		}
		if i%1000 == 0 {
			if got, ok := s.find(digest(0), time.Now()); !ok || got.of.Name != "a" {
				t.Fatalf("after %d the one that is asked for is forgotten", i)
			}
		}
	}
	if _, ok := s.find(digest(1), time.Now()); ok {
		t.Error("what nobody asks for is remembered for ever")
	}
	keys.current.Store(&keySet{})
	if _, ok := s.find(digest(0), time.Now()); ok {
		t.Error("it is good although the keys are others")
	}
}
