package listener

import "time"

// FrameLimits bound the frames of HTTP/2 (RFC 9113) that one connection may
// send. A caller of gRPC stays far below; beyond any of them the connection
// ends with GOAWAY (ENHANCE_YOUR_CALM), whose debug data says the limit.
//
// Three rates are fixed, as each is in relation to what the connection carries:
//
//   - Resets: streams that are reset within RapidReset of their start and
//     before they are answered, and streams beyond Streams: twice Streams a
//     second, four times Streams at once, and one more for each stream that is
//     answered.
//   - Settings: SETTINGS frames, acknowledgements among them: 10 a second, 100
//     at once.
//   - Control: PING, WINDOW_UPDATE, PRIORITY, CONTINUATION, empty DATA, frames
//     of streams that are over, and frames of unknown types: 1,000 a second,
//     20,000 at once, and four more for each stream that starts and for each
//     DATA or HEADERS frame that the server sends.
type FrameLimits struct {
	// Streams are the most streams at once that the server allows
	// (SETTINGS_MAX_CONCURRENT_STREAMS). 0 means 1000.
	Streams int
	// HeaderBlockBytes are the most bytes of one block of header fields, as
	// compressed, over HEADERS and all its CONTINUATION frames. 0 means 32 KiB.
	HeaderBlockBytes int
	// UnfinishedBytes are the most bytes of gRPC messages that have begun and
	// are not whole yet, over all streams of the connection; each DATA frame
	// counts frameOverhead bytes more. 0 means 256 MiB.
	UnfinishedBytes int64
}

// RapidReset is the age up to which a stream that its caller resets counts
// against Resets: no deadline of a fetch is shorter, and the work of a stream
// that lives longer is bounded by the streams at once.
const RapidReset = 50 * time.Millisecond

const (
	settingsPerSecond = 10
	settingsAtOnce    = 100
	controlPerSecond  = 1_000
	controlAtOnce     = 20_000
	// A caller that reads sends up to two WINDOW_UPDATE frames for one of DATA,
	// one more for a large message and a PING to measure its bandwidth.
	controlForAnswer = 4
	// frameOverhead is what holding a small DATA frame costs the server.
	frameOverhead = 512
)

func (l FrameLimits) withDefaults() FrameLimits {
	if l.Streams == 0 {
		l.Streams = 1000
	}
	if l.HeaderBlockBytes == 0 {
		l.HeaderBlockBytes = 32 << 10
	}
	if l.UnfinishedBytes == 0 {
		l.UnfinishedBytes = 256 << 20
	}
	return l
}

// bucket holds tokens up to cap and gains perSecond of them. It looks at the
// clock only when it is empty, so it may grant cap twice.
type bucket struct {
	tokens, cap, perSecond int64
	filled                 time.Duration
}

func newBucket(perSecond, atOnce int64) bucket {
	return bucket{tokens: atOnce, cap: atOnce, perSecond: perSecond}
}

// spend takes a token; false means that there is none. Now is the time on the
// clock of the connection.
func (b *bucket) spend(now time.Duration) bool {
	if b.tokens == 0 {
		gained := int64((now - b.filled).Seconds() * float64(b.perSecond))
		if gained == 0 {
			return false
		}
		b.earn(gained)
		b.filled = now
	}
	b.tokens--
	return true
}

func (b *bucket) earn(n int64) { b.tokens = min(b.tokens+n, b.cap) }
