package fetch

import (
	"context"
	"crypto/x509"
	"io"
	"net/netip"
	"time"
)

// Transport sends one hop on one connection. Nothing is hidden inside: it
// follows no redirect, makes no second attempt and adds no field.
type Transport interface {
	// RoundTrip may return before r.Body is read to its end; it always closes
	// r.Body, perhaps while a Read of it waits, which must then return. ctx
	// governs the response body too. The Facts are true also when the error is
	// not nil. The error is a *Failure, a *Denied that Route.Allow returned, or
	// wraps ctx.Err() once ctx has ended.
	RoundTrip(ctx context.Context, r *Request) (*Response, Facts, error)
	// Forget drops the idle connections whose route keep refuses, after a new
	// configuration withdrew it.
	Forget(keep func(Route) bool)
	// Close waits for the connections in use until ctx ends, then closes all.
	Close(ctx context.Context) error
}

// Framing says how a request body is delimited (RFC 9112 section 6).
type Framing int

const (
	// FramingNone sends no body and, but for methods that RFC 9110 section 8.6
	// gives one, no Content-Length.
	FramingNone Framing = iota
	// FramingLength sends Content-Length: Request.Length, zero included.
	FramingLength
	// FramingChunked sends one HTTP chunk for each Read.
	FramingChunked
	// FramingUpgrade hands the connection over after a 101.
	FramingUpgrade
)

// Request is one hop: one request on one connection.
type Request struct {
	Method string
	Scheme string
	// Host is canonical: a lower-case A-label name without a final dot, or an
	// IP literal without brackets.
	Host string
	Port uint16
	// Target is the exact bytes of the request target (RFC 9112 section 3.2).
	Target []byte
	// Fields go out as they are, in this order. They hold no Host, framing or
	// connection field, unless Verbatim says so.
	Fields []Field
	// HostField is the Host field or :authority to send; empty means the
	// origin's own.
	HostField string

	Framing Framing
	Length  int64 // with FramingLength
	// Body is read in pieces, each of which goes out as it came. If it has a
	// method Len() int, so many bytes can be read without waiting.
	Body io.ReadCloser
	// Trailers are asked for when Body has ended; they need FramingChunked.
	// TrailerNames are those known before, for the Trailer field (RFC 9110
	// section 6.6.2).
	Trailers     func() []Field
	TrailerNames []string

	Route    Route
	Timeouts Timeouts

	// ExpectContinue holds the body back until the upstream says 100 Continue or
	// Timeouts.Continue is over (RFC 9110 section 10.1.1).
	ExpectContinue bool
	// KeepChunks has ReadChunk never give bytes of two HTTP chunks at once.
	// Without it, one that ends is not told of.
	KeepChunks bool
	// Interim is called for each 1xx as it comes (RFC 9110 section 15.2). It
	// must not block. nil means nobody asked.
	Interim func(Head)
	// Fresh asks for a new connection; CloseAfter retires it afterwards.
	Fresh, CloseAfter bool
	// Verbatim lets Fields hold Host, Content-Length, Transfer-Encoding, Trailer,
	// Connection, TE and Expect, each once and only with the value that goes out
	// anyway, but for the case of letters: "keep-alive" on a connection that stays
	// open, and "trailers" for TE. On HTTP/1.1 each stands where the transport then
	// writes its own; of those that are not there only what delimits the body and
	// Host are added. HTTP/2 drops them (RFC 9113 section 8.2.2).
	Verbatim bool
}

// Route is everything a dial-time decision depends on: two hops may share a
// connection only if their routes have the same Key.
type Route struct {
	// Key is the pool key, Origin where it leads; Sealed sets both.
	Key    string
	Origin Origin
	// Partition separates connections that are alike but must not be shared;
	// empty means shared.
	Partition string
	// AddressProfile names, by content, the set of addresses that Allow accepts.
	AddressProfile string
	// TLS are the settings of the handshake; they are ignored on http.
	TLS TLSSettings
	// Version is the protocol to speak.
	Version HTTPVersion

	// Allow is policy's word on one address. It is asked for each address that
	// a name resolves to, and again for the address that is dialed. Its error
	// is a *Failure or a *Denied.
	Allow func(netip.AddrPort) error
	// FilterMixed dials the allowed addresses of an answer that also holds
	// denied ones; false denies the name.
	FilterMixed bool
	// MaxDials is the most connections one RoundTrip may open.
	MaxDials int
}

// TLSSettings are the settings of a TLS handshake with an upstream.
type TLSSettings struct {
	// Roots verify the upstream's certificate chain; nil means the roots that
	// the transport was built with. RootsID names them by content.
	Roots   *x509.CertPool
	RootsID string
	// MinVersion is the least version accepted, as in crypto/tls; 0 means 1.2.
	MinVersion uint16
	// Pins are keys of which a verified chain must have one; empty means any.
	Pins Pins
	// ServerName is the SNI and the name verified; empty means the host.
	ServerName string
	// Identity is the client certificate, shown if the upstream asks for one.
	// IdentityID names it by content; empty means none.
	Identity   Identity
	IdentityID string
}

// HTTPVersion is which protocol versions a hop may speak.
type HTTPVersion int

const (
	// HTTPAny lets ALPN choose between HTTP/2 and HTTP/1.1; http is HTTP/1.1.
	HTTPAny HTTPVersion = iota
	// HTTP1 offers HTTP/1.1 only.
	HTTP1
	// HTTP2 offers HTTP/2 only; on http it is spoken with prior knowledge
	// (RFC 9113 section 3.3).
	HTTP2
)

// Timeouts are the most time that each phase of a hop may take. In a Request
// none is zero, but for those that say what zero means.
type Timeouts struct {
	Pool    time.Duration // waiting for a connection of the pool
	DNS     time.Duration // resolving the name
	Connect time.Duration // one TCP connect
	TLS     time.Duration // one TLS handshake
	Head    time.Duration // from the request sent to the response head
	Idle    time.Duration // between two reads of the response body
	Write   time.Duration // between two writes of the request
	// Continue is how long a body that expects 100 Continue waits for it; 0
	// means 1 s.
	Continue time.Duration
	Attempt  time.Duration // one whole attempt; 0 means only Total ends it
	Total    time.Duration // the whole fetch; 0 means none (streams)
}

// Response is the answer to one hop.
type Response struct {
	Head
	// Length is the body's length in bytes where the framing tells it, else -1.
	Length int64
	// Body is never nil. Close frees or abandons the connection.
	Body Body
	// Trailers are valid after Body returned io.EOF; nil means none can come.
	Trailers func() []Field
	// Upgraded is the connection after a 101 or an extended CONNECT, else nil.
	Upgraded io.ReadWriteCloser
}

// Body is a response body as it is on the wire, not decoded.
type Body interface {
	io.ReadCloser
	// ReadChunk asks get for a buffer once bytes are there, fills it with what is
	// there and, with Request.KeepChunks, tells whether an HTTP chunk ended. It
	// holds no buffer while it waits. On HTTP/2 endOfChunk is always false. Its error, and that of Read, is io.EOF,
	// a *Failure, or wraps ctx.Err() once the context of RoundTrip has ended.
	ReadChunk(get func() []byte) (b []byte, endOfChunk bool, err error)
	// Cut has what another goroutine reads fail now, and the connection close. It
	// does nothing once the body has ended.
	Cut()
}

// Facts are what a transport saw as of the head of the response, or until it
// failed. What follows is the Body's error and what the engine counts.
type Facts struct {
	Dials    int
	Reused   bool
	Remote   netip.AddrPort
	Protocol string
	TLS      *TLSFacts
	Sent     int64 // bytes of the request that left, or were about to
	Stage    Stage // the last stage entered
	Times    Timings
	// Stale counts pooled connections that were found dead before use.
	Stale int
}

// TLSFacts are what a handshake with an upstream settled.
type TLSFacts struct {
	Version     uint16   // as in crypto/tls
	CipherSuite uint16   // as in crypto/tls
	PeerSPKI    [32]byte // SHA-256 of the leaf's SubjectPublicKeyInfo
	NotAfter    time.Time
	Resumed     bool
}

// Timings are how long each stage of a hop took; zero means it did not happen.
type Timings struct {
	Pool, DNS, Connect, TLS, Send, FirstByte time.Duration
	Total                                    time.Duration
}
