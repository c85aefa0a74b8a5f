package transport

// NewReference returns a transport that speaks HTTP/1.1 with net/http's engine,
// on connections that it dials and pools itself.
func NewReference(o Options) *Transport {
	t := New(o)
	t.h1 = newNetHTTP(o.Limits)
	return t
}
