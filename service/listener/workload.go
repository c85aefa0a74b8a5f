package listener

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// firstGiven is how long a Workload API has for what it gives first.
const firstGiven = 5 * time.Second

// watchAgain is after how long an API is asked again that has ended the watch.
const watchAgain = time.Second

// Workload is TLS whose certificate, key and authorities of callers a SPIFFE
// Workload API gives and renews. While it cannot be asked, what it gave last
// stays.
//
// The authorities of a trust domain vouch for its own SPIFFE IDs alone. A caller's
// certificate is good until it expires or its authority is not one of its trust
// domain any more.
type Workload struct {
	address  string
	optional bool
	log      *slog.Logger
	current  atomic.Pointer[given]

	client *workloadapi.Client
	stop   context.CancelFunc
	// first is closed with what was given first, ended when the one goroutine has
	// ended, which Close waits for.
	first, ended chan struct{}

	mu    sync.Mutex
	wrong error // why nothing is given at the moment; nil: it is
}

// given is what the API gave.
type given struct {
	config   *tls.Config
	notAfter time.Time
	bundles  *x509bundle.Set
}

// NewWorkload asks the Workload API at an address such as "unix:///run/agent.sock"
// and waits at most 5 s for a certificate. Optional lets callers in that show none
// at all. The error says what to do; without one, Close ends what was begun.
func NewWorkload(address string, optional bool, log *slog.Logger) (*Workload, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ctx, stop := context.WithCancel(context.Background())
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(address))
	if err != nil {
		stop()
		return nil, fmt.Errorf("grpc.tls: workload_api %s cannot be asked: %w; give the address of the agent's socket", address, err)
	}
	w := &Workload{
		address: address, optional: optional, log: log, client: client, stop: stop,
		first: make(chan struct{}), ended: make(chan struct{}),
	}
	go w.watch(ctx)
	select {
	case <-w.first:
		return w, nil
	case <-time.After(firstGiven):
		err := w.lastWrong()
		w.Close()
		return nil, fmt.Errorf("grpc.tls: workload_api %s gave no certificate within %s: %w; see that the agent runs, that fetchgate may open its socket, and that an entry of its server is for fetchgate", address, firstGiven, err)
	}
}

// Close ends the watch and waits for that.
func (w *Workload) Close() error {
	w.stop()
	<-w.ended
	return w.client.Close()
}

// Until is until when the certificate of the listener is good. There are no
// revocation lists.
func (w *Workload) Until() (certificate, lists time.Time) {
	return w.current.Load().notAfter, time.Time{}
}

// Refresh does nothing: the API tells of what is new by itself.
func (w *Workload) Refresh() {}

// watch takes what the API gives until ctx ends. The library ends a watch that the
// API cancels, and begins others anew by itself.
func (w *Workload) watch(ctx context.Context) {
	defer close(w.ended)
	for {
		_ = w.client.WatchX509Context(ctx, taker{w, ctx}) // the taker was told why
		select {
		case <-ctx.Done():
			return
		case <-time.After(watchAgain):
		}
	}
}

// taker is what the library calls, one call at a time.
type taker struct {
	*Workload
	watch context.Context
}

// OnX509ContextUpdate uses what the API gives.
func (t taker) OnX509ContextUpdate(c *workloadapi.X509Context) {
	next := newGiven(c, t.optional)
	before := t.current.Swap(next)
	t.mu.Lock()
	t.wrong = nil
	t.mu.Unlock()
	if before == nil {
		close(t.first)
	}
	t.log.Info("the Workload API has given a certificate for the gRPC listener", "spiffe_id", c.DefaultSVID().ID.String(),
		"not_after", next.notAfter, "trust_domains", next.bundles.Len())
}

// OnX509ContextWatchError notes why the API gives nothing, and says so once until
// it gives something.
func (t taker) OnX509ContextWatchError(err error) {
	if t.watch.Err() != nil {
		return // it was told to end
	}
	t.mu.Lock()
	said := t.wrong != nil
	t.wrong = err
	t.mu.Unlock()
	if given := t.current.Load(); given != nil && !said {
		t.log.Warn("the Workload API gives nothing; the last certificate and authorities stay, and it is asked again",
			"address", t.address, "err", err, "not_after", given.notAfter)
	}
}

func (w *Workload) lastWrong() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wrong == nil {
		return errors.New("it does not answer")
	}
	return w.wrong
}

func newGiven(c *workloadapi.X509Context, optional bool) *given {
	own := c.DefaultSVID()
	pair := tls.Certificate{PrivateKey: own.PrivateKey, Leaf: own.Certificates[0]}
	for _, one := range own.Certificates {
		pair.Certificate = append(pair.Certificate, one.Raw)
	}
	g := &given{config: settings(), notAfter: pair.Leaf.NotAfter, bundles: c.Bundles}
	g.config.Certificates = []tls.Certificate{pair}
	g.config.ClientAuth = clientAuth(optional)
	// The pool has no trust domains: verify holds each certificate to its own.
	g.config.ClientCAs = x509.NewCertPool()
	for _, bundle := range c.Bundles.Bundles() {
		for _, authority := range bundle.X509Authorities() {
			g.config.ClientCAs.AddCert(authority)
		}
	}
	g.config.VerifyConnection = g.verify
	return g
}

// verify refuses a certificate that the authorities of its own trust domain do not
// vouch for (X509-SVID section 5), though others do.
func (g *given) verify(c tls.ConnectionState) error {
	if len(c.PeerCertificates) == 0 {
		return nil // then ClientAuth has let it be so
	}
	_, _, err := x509svid.Verify(c.PeerCertificates, g.bundles)
	if err == nil {
		err = g.vouches(c.VerifiedChains)
	}
	if err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: c.PeerCertificates, Err: err}
	}
	return nil
}

var errNotVouched = errors.New("no authority of the trust domain of its SPIFFE ID vouches for it")

// vouches tells that one of the chains ends at an authority of the trust domain of
// its SPIFFE ID. A certificate of an authority that was issued anew is as good as
// the one before.
func (g *given) vouches(chains [][]*x509.Certificate) error {
	id, err := x509svid.IDFromCert(chains[0][0])
	if err != nil {
		return err
	}
	bundle, err := g.bundles.GetX509BundleForTrustDomain(id.TrustDomain())
	if err != nil {
		return errNotVouched
	}
	for _, authority := range bundle.X509Authorities() {
		for _, chain := range chains {
			end := chain[len(chain)-1]
			if bytes.Equal(end.RawSubject, authority.RawSubject) && bytes.Equal(end.RawSubjectPublicKeyInfo, authority.RawSubjectPublicKeyInfo) {
				return nil
			}
		}
	}
	return errNotVouched
}

// Config is TLS 1.2 or newer, HTTP/2 only, without resumption, by what was given
// last.
func (w *Workload) Config() *tls.Config {
	config := settings()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return w.current.Load().config, nil }
	return config
}

// Judge says why chains that were verified in a handshake are not good any more;
// nil: they are.
func (w *Workload) Judge(chains [][]*x509.Certificate) error {
	if len(chains) == 0 {
		return nil
	}
	return w.current.Load().vouches(chains)
}
