// Package caller finds out which service is calling: from a client certificate
// that the listener verified, from the user of a process at a unix socket, from a
// token, or from a JWT. What else an RPC says of its caller is no proof.
package caller

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// Anonymous is the name of a caller that nobody asked to prove who it is.
const Anonymous = "anonymous"

// Options are what an Authenticator is built from.
type Options struct {
	// Callers are those of a configuration that was checked. None: everybody is
	// Anonymous.
	Callers []*configv1.Caller
	// Issuers sign the JWTs that callers show.
	Issuers []*configv1.JwtIssuer
	// File completes the name of a file of the configuration; nil leaves it.
	File func(name string) string
	// Log is told of changed files; nil discards it.
	Log *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Fetch gets the keys of issuers that are at a URL; nil: they are never there.
	Fetch Fetch
	// Before is the authenticator whose place the new one takes: of its issuers
	// those at the same URL keep their keys. nil: there is none.
	Before *Authenticator
	// JudgeCertificates says why chains that the listener verified when a connection
	// began are not good any more; its error is told to the caller. nil: they are
	// until they expire.
	JudgeCertificates func(chains [][]*x509.Certificate) error
	// SPIFFEOnly tells that the authorities of the listener vouch for SPIFFE IDs and
	// for no DNS names, so that these prove nothing.
	SPIFFEOnly bool
}

// Authenticator tells which service is calling. It does not change, but for the
// keys of issuers, which it reads or fetches again; a reload replaces it by another.
// It is safe for concurrent use.
type Authenticator struct {
	// anonymous is who shows no proof; nil: nobody may.
	anonymous    *fetch.Caller
	certificates certificates
	users        users
	tokens       map[[sha256.Size]byte]*fetch.Caller
	issuers      map[string]*issuer // by the claim iss
	seen         seenJWTs
	now          func() time.Time
}

// New returns an authenticator for the callers of a configuration. It reads the
// keys of the issuers; its error is a [*FileError], or several, joined.
func New(o Options) (*Authenticator, error) {
	if o.File == nil {
		o.File = func(name string) string { return name }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	a := &Authenticator{
		certificates: newCertificates(o), users: users{}, tokens: map[[sha256.Size]byte]*fetch.Caller{}, now: o.Now,
	}
	if len(o.Callers) == 0 {
		a.anonymous = &fetch.Caller{Name: Anonymous, Rights: fetch.DefaultRights, Anonymous: true}
	}
	var err error
	if a.issuers, err = newIssuers(o); err != nil {
		return nil, err
	}
	for _, c := range o.Callers {
		a.add(c)
	}
	return a, nil
}

// add makes a caller known by its proofs.
func (a *Authenticator) add(c *configv1.Caller) {
	known := &fetch.Caller{Name: c.GetName(), Owner: c.GetOwner(), Rights: rightsOf(c.GetRights())}
	if c.GetDangerousAnonymous() {
		nobody := *known
		nobody.Anonymous = true
		a.anonymous = &nobody
	}
	a.certificates.add(known, c)
	for _, id := range c.GetUnixUids() {
		a.users[uint32(id)] = known
	}
	for _, digest := range c.GetTokenSha256() {
		var key [sha256.Size]byte
		if n, err := hex.Decode(key[:], []byte(digest)); err == nil && n == len(key) {
			a.tokens[key] = known
		}
	}
	for _, named := range c.GetJwts() {
		for _, i := range a.issuers {
			if i.name == named.GetIssuer() {
				i.add(known, named)
			}
		}
	}
}

// rightsOf returns the set of these rights; the default ones if there are none.
func rightsOf(names []string) fetch.Rights {
	if len(names) == 0 {
		return fetch.DefaultRights
	}
	var rights fetch.Rights
	for _, name := range names {
		if i := slices.Index(fetch.RightNames, name); i >= 0 {
			rights |= 1 << i
		}
	}
	return rights
}

type contextKey struct{}

// outcome is the context of an RPC with what was found out about its caller.
type outcome struct {
	context.Context
	caller fetch.Caller
	err    error
}

// Value returns the outcome itself for FromContext.
func (o *outcome) Value(key any) any {
	if _, ok := key.(contextKey); ok {
		return o
	}
	return o.Context.Value(key)
}

// Authenticate puts the caller of an RPC into its context, or why it is not
// known, which is then the error too, an [*Unknown]. It has the shape of
// go-grpc-middleware's auth function.
func (a *Authenticator) Authenticate(ctx context.Context) (context.Context, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		p = &peer.Peer{}
	}
	found, err := a.find(ctx, p)
	if err != nil {
		found = fetch.Caller{Anonymous: true}
	}
	if tcp, ok := p.Addr.(*net.TCPAddr); ok {
		found.Peer = tcp.AddrPort()
	}
	if process, ok := handshake(p.AuthInfo).(Process); ok {
		found.User = fetch.User{ID: process.UID, Known: true}
	}
	return &outcome{Context: ctx, caller: found, err: err}, err
}

// FromContext returns the caller of the RPC that ctx belongs to. The error is an
// [*Unknown] if the caller is not known; the caller then has its Peer alone.
func FromContext(ctx context.Context) (fetch.Caller, error) {
	o, ok := ctx.Value(contextKey{}).(*outcome)
	if !ok {
		return fetch.Caller{}, unknown("the caller is not known; present the identity that this server's operator configured")
	}
	return o.caller, o.err
}

// proof is a caller and what proves that it is the one.
type proof struct {
	of       *fetch.Caller // nil: nothing was shown, or nobody here
	identity string
	claims   fetch.Claims // of a JWT
	// shown is the certificate of the connection, whoever it names.
	shown *fetch.Certificates
	// unknown is a verified certificate that names nobody here; else nil.
	unknown *x509.Certificate
}

// find weighs all the proofs of an RPC.
func (a *Authenticator) find(ctx context.Context, p *peer.Peer) (fetch.Caller, error) {
	process, isUnix := handshake(p.AuthInfo).(Process)
	var connection proof
	var err error
	if isUnix {
		connection = a.users.find(process)
	} else if connection, err = a.certificates.find(p.AuthInfo, a.now()); err != nil {
		return fetch.Caller{}, err
	}
	shown, err := a.ofMetadata(ctx, p)
	if err != nil {
		return fetch.Caller{}, err
	}
	shown.shown = connection.shown
	switch {
	case isUnix && connection.of != nil && shown.of != nil && connection.of != shown.of:
		return fetch.Caller{}, unknown(fmt.Sprintf("the user id %d of the process and the token are of different callers; show a token of the user's caller, or none", process.UID))
	case connection.of != nil && shown.of != nil && connection.of != shown.of:
		return fetch.Caller{}, unknown("the certificate and the token are of different callers; show those of one")
	case connection.of != nil:
		return connection.caller(), nil
	case shown.of != nil:
		return shown.caller(), nil
	case a.anonymous != nil:
		return proof{of: a.anonymous, shown: connection.shown}.caller(), nil
	case isUnix:
		return fetch.Caller{}, a.noUser(process)
	}
	if connection.unknown != nil {
		return fetch.Caller{}, a.noName(connection.unknown)
	}
	return fetch.Caller{}, a.nobody()
}

func (p proof) caller() fetch.Caller {
	c := *p.of
	c.Identity, c.Claims, c.Certificates = p.identity, p.claims, p.shown
	return c
}

// nobody refuses an RPC without any proof.
func (a *Authenticator) nobody() *Unknown {
	switch byToken, byCertificate := a.takesTokens(), a.certificates.any(); {
	case byToken && byCertificate:
		return unknown("nothing proves who is calling; show a client certificate that the operator knows, or a token in the metadata, authorization: Bearer TOKEN")
	case byToken:
		return unknown("nothing proves who is calling; show a token in the metadata, authorization: Bearer TOKEN")
	case byCertificate:
		return unknown("nothing proves who is calling; show a client certificate that the operator knows")
	}
	return unknown("nothing proves who is calling; ask the operator for an identity")
}

// takesTokens tells that a token can be a proof here. Where it cannot, it says
// nothing about the caller.
func (a *Authenticator) takesTokens() bool { return len(a.tokens)+len(a.issuers) > 0 }

// handshake is what was learned of a caller in the handshake of its connection;
// it looks behind what the listener has put around it.
func handshake(i credentials.AuthInfo) credentials.AuthInfo {
	for {
		around, ok := i.(interface{ Unwrap() credentials.AuthInfo })
		if !ok {
			return i
		}
		i = around.Unwrap()
	}
}
