package fetch

// Origin is a scheme, a host and a port (RFC 6454 section 4).
type Origin struct {
	Scheme string // "http" or "https"
	// Host is canonical: a lower-case A-label name without a final dot, or an
	// IP literal without brackets.
	Host string
	Port uint16
}

// Destination is where one hop goes.
type Destination struct {
	Origin
	// Target is the request target as it is sent, path and query (RFC 9112
	// section 3.2.1), or "*".
	Target string
	// Fragment is kept for the URL that is reported; it is never sent.
	Fragment string
	// Encoded tells that illegal bytes of the URL were percent-encoded.
	Encoded bool
}
