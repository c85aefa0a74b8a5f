package listener_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fetchgate/fetchgate/service/fetchtest"
	"github.com/fetchgate/fetchgate/service/listener"
)

// notes are the lines of a log that is written at any time.
type notes struct {
	mu   sync.Mutex
	text strings.Builder
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.Write(p)
}

func (n *notes) count(s string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Count(n.text.String(), s)
}

// workload is a listener's TLS by a Workload API.
type workload struct {
	*listener.Workload
	api *fetchtest.WorkloadAPI
	log *notes
	// own is the authority of the trust domain ours.
	own *fetchtest.Authority
}

const serverID = "spiffe://ours/fetchgate"

func newWorkload(t *testing.T, optional bool, federated map[string][]*fetchtest.Authority) *workload {
	t.Helper()
	w := &workload{api: fetchtest.NewWorkloadAPI(t), log: &notes{}, own: fetchtest.NewAuthority(t)}
	w.api.Give(serverID, w.own.Issue(svid(serverID)), []*fetchtest.Authority{w.own}, federated)
	var err error
	if w.Workload, err = listener.NewWorkload(w.api.Address(), optional, slog.New(slog.NewTextHandler(w.log, nil))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func svid(id string) fetchtest.IssueOptions {
	return fetchtest.IssueOptions{Names: []string{id, "127.0.0.1"}}
}

// shake is a handshake with a certificate; nil: none. It returns what the server
// verified and what it says, and the certificate that it showed.
func (w *workload) shake(t *testing.T, shown *tls.Certificate) ([][]*x509.Certificate, *x509.Certificate, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}
	if shown != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return shown, nil }
	}
	client := make(chan *x509.Certificate, 1)
	go func() {
		defer close(client)
		if c, err := tls.Dial("tcp", l.Addr().String(), config); err == nil {
			client <- c.ConnectionState().PeerCertificates[0]
			c.Close()
		}
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	server := tls.Server(c, w.Config())
	err = server.HandshakeContext(t.Context())
	chains := server.ConnectionState().VerifiedChains
	c.Close()
	return chains, <-client, err
}

// TestWorkloadTrustDomains: an authority vouches for the IDs of its own trust
// domain, whatever else it signs.
func TestWorkloadTrustDomains(t *testing.T) {
	theirs := fetchtest.NewAuthority(t)
	w := newWorkload(t, false, map[string][]*fetchtest.Authority{"theirs": {theirs}})
	for name, c := range map[string]struct {
		by   *fetchtest.Authority
		with fetchtest.IssueOptions
		fine bool
	}{
		"ours":                        {w.own, svid("spiffe://ours/billing"), true},
		"theirs":                      {theirs, svid("spiffe://theirs/billing"), true},
		"ours by theirs":              {theirs, svid("spiffe://ours/billing"), false},
		"theirs by ours":              {w.own, svid("spiffe://theirs/billing"), false},
		"a domain that is not here":   {w.own, svid("spiffe://elsewhere/billing"), false},
		"by nobody":                   {fetchtest.NewAuthority(t), svid("spiffe://ours/billing"), false},
		"expired":                     {w.own, fetchtest.IssueOptions{Names: []string{"spiffe://ours/billing"}, NotAfter: time.Now().Add(-time.Minute)}, false},
		"no SPIFFE ID":                {w.own, fetchtest.IssueOptions{Names: []string{"billing.example"}}, false},
		"two of them":                 {w.own, fetchtest.IssueOptions{Names: []string{"spiffe://ours/a", "spiffe://ours/b"}}, false},
		"one that signs others":       {w.own, fetchtest.IssueOptions{Names: []string{"spiffe://ours/billing"}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}, false},
		"one that a DNS name goes by": {w.own, fetchtest.IssueOptions{Names: []string{"spiffe://ours/a", "billing.example"}}, true},
	} {
		shown := c.by.Issue(c.with)
		chains, served, err := w.shake(t, &shown)
		if (err == nil) != c.fine || c.fine && (len(chains) == 0 || !chains[0][0].Equal(shown.Leaf) || served == nil || served.URIs[0].String() != serverID) {
			t.Errorf("%s: %v, with %d chains", name, err, len(chains))
		}
		if _, is := errors.AsType[*tls.CertificateVerificationError](err); err != nil && !is {
			t.Errorf("%s: the error is %T", name, err)
		}
	}
	if _, _, err := w.shake(t, nil); err == nil {
		t.Error("a caller without a certificate is let in")
	}
}

// TestWorkloadOptional: a caller may show none; what it shows is looked at.
func TestWorkloadOptional(t *testing.T) {
	w := newWorkload(t, true, nil)
	stranger := fetchtest.NewAuthority(t).Issue(svid("spiffe://ours/billing"))
	if chains, _, err := w.shake(t, nil); err != nil || chains != nil {
		t.Errorf("without a certificate: %v, %v", chains, err)
	}
	if _, _, err := w.shake(t, &stranger); err == nil {
		t.Error("a certificate of nobody is let in")
	}
}

// TestWorkloadRotation: what is given anew serves at once, an authority that goes
// vouches no more, also where it has; an outage, also one that the API itself
// ends the watch with, leaves what there is.
func TestWorkloadRotation(t *testing.T) {
	w := newWorkload(t, false, nil)
	shown := w.own.Issue(svid("spiffe://ours/billing"))
	chains, first, err := w.shake(t, &shown)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Judge(chains); err != nil {
		t.Errorf("what was verified: %v", err)
	}
	if err := w.Judge(nil); err != nil {
		t.Errorf("no certificate: %v", err)
	}
	next := fetchtest.NewAuthority(t)
	w.api.Give(serverID, next.Issue(svid(serverID)), []*fetchtest.Authority{next, w.own}, nil)
	soon(t, func() bool { _, served, err := w.shake(t, &shown); return err == nil && !served.Equal(first) })
	if err := w.Judge(chains); err != nil {
		t.Errorf("while both vouch: %v", err)
	}
	w.api.Give(serverID, next.Issue(svid(serverID)), []*fetchtest.Authority{next}, nil)
	soon(t, func() bool { return w.Judge(chains) != nil })
	if _, _, err := w.shake(t, &shown); err == nil {
		t.Error("a certificate of the old authority is let in")
	}
	renewed := next.Issue(svid("spiffe://ours/billing"))
	for _, outage := range []func(){
		func() { w.api.Refuse(status.Error(codes.Canceled, "the agent goes away")) },
		func() { w.api.Stop() },
	} {
		said, given := w.log.count("gives nothing"), w.log.count("has given a certificate")
		outage()
		soon(t, func() bool { return w.log.count("gives nothing") > said })
		if _, _, err := w.shake(t, &renewed); err != nil {
			t.Errorf("during an outage: %v", err)
		}
		w.api.Give(serverID, next.Issue(svid(serverID)), []*fetchtest.Authority{next}, nil)
		w.api.Stop()
		w.api.Start()
		soon(t, func() bool { return w.log.count("has given a certificate") > given })
		if n := w.log.count("gives nothing"); n != said+1 {
			t.Errorf("an outage is said %d times", n-said)
		}
	}
}

// soon waits until something is so, at most 30 s.
func soon(t *testing.T, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !is() {
		select {
		case <-ctx.Done():
			t.Fatal("it does not become so")
		case <-again.C:
		}
	}
}

// TestWorkloadEnds: Close leaves nothing behind, during an outage too.
func TestWorkloadEnds(t *testing.T) {
	api, own := fetchtest.NewWorkloadAPI(t), fetchtest.NewAuthority(t)
	api.Give(serverID, own.Issue(svid(serverID)), []*fetchtest.Authority{own}, nil)
	for _, outage := range []bool{false, true} {
		running := goleak.IgnoreCurrent()
		log := &notes{}
		w, err := listener.NewWorkload(api.Address(), false, slog.New(slog.NewTextHandler(log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		if outage {
			api.Stop()
			soon(t, func() bool { return log.count("gives nothing") > 0 })
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if !outage {
			api.Stop() // its goroutine of the connection
			api.Start()
		}
		goleak.VerifyNone(t, running, goleak.IgnoreTopFunction("net.(*netFD).accept"), goleak.IgnoreAnyFunction("google.golang.org/grpc.(*Server).Serve"))
	}
}

// TestWorkloadWithoutIdentity: the error says what the API said and what to do.
func TestWorkloadWithoutIdentity(t *testing.T) {
	t.Parallel() // it takes 5 s
	api := fetchtest.NewWorkloadAPI(t)
	began := time.Now()
	_, err := listener.NewWorkload(api.Address(), false, nil)
	if took := time.Since(began); err == nil || took > 8*time.Second || !strings.Contains(err.Error(), "no identity issued") ||
		!strings.Contains(err.Error(), api.Address()) || !strings.Contains(err.Error(), "see that the agent runs") {
		t.Errorf("after %s: %v", took, err)
	}
}
