package listener

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fetchgate/fetchgate/service/file"
	"github.com/fetchgate/fetchgate/service/revocation"
)

// lookEvery is the least time between two looks at the files.
const lookEvery = time.Second

// maxFileBytes bounds a PEM file.
const maxFileBytes = 1 << 20

// TLSFiles are the files of a listener's TLS: PEM, but for ClientCRL.
type TLSFiles struct {
	// Cert is the file of the certificate and its chain, Key that of its key.
	Cert, Key string
	// ClientCA is the file of the authorities that sign the certificates of
	// callers; empty: callers show none.
	ClientCA string
	// ClientCRL is the file of the revocation lists of these authorities, in PEM or
	// one in DER; empty: none is revoked.
	ClientCRL string
	// Optional lets callers in that show no certificate at all.
	Optional bool
}

// TLS serves a certificate that is read again when its files change. A caller's
// certificate is good until it expires, a list of ClientCRL names it, or its
// authority goes from ClientCA and its connection ends.
type TLS struct {
	files   TLSFiles
	log     *slog.Logger
	current atomic.Pointer[loaded]

	looking sync.Mutex // held by whom looks at the files
	looked  atomic.Pointer[time.Time]
	// seen is the content that was tried last, good or not; good is in use.
	seen, good contents
}

// loaded is what content of the files became.
type loaded struct {
	config   *tls.Config
	notAfter time.Time
	lists    *revocation.Lists // nil: none
	// said are the lists of which the log has said that they are out of date.
	said sync.Map
}

// contents are the bytes of the files.
type contents struct {
	cert, key, clientCA, clientCRL []byte
	// aboutCRL is what was known of the file of the lists, which may be large, when
	// it was read.
	aboutCRL fs.FileInfo
}

func (c contents) equal(d contents) bool {
	return bytes.Equal(c.cert, d.cert) && bytes.Equal(c.key, d.key) && bytes.Equal(c.clientCA, d.clientCA) && bytes.Equal(c.clientCRL, d.clientCRL)
}

// NewTLS reads the files; its error says which of them to mend. A nil log
// discards what is said about changes.
func NewTLS(files TLSFiles, log *slog.Logger) (*TLS, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	t := &TLS{files: files, log: log}
	var err error
	if t.seen, err = files.read(contents{}); err != nil {
		return nil, err
	}
	first, err := files.load(t.seen)
	if err != nil {
		return nil, err
	}
	t.good = t.seen
	t.use(first)
	now := time.Now()
	t.looked.Store(&now)
	if now.After(first.notAfter) {
		log.Warn("the certificate of the gRPC listener has expired", "file", files.Cert, "not_after", first.notAfter)
	}
	return t, nil
}

// Config is TLS 1.2 or newer, HTTP/2 only, without resumption: each connection
// proves anew who it is. Handshakes look at the files at most once a second;
// when they cannot be used, the last good ones stay.
func (t *TLS) Config() *tls.Config {
	config := settings()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		t.look()
		return t.current.Load().config, nil
	}
	return config
}

// Judge says why chains that were verified in a handshake are not good any more,
// as errors of package revocation; nil: they are. Like handshakes, it looks at the
// files at most once a second.
func (t *TLS) Judge(chains [][]*x509.Certificate) error {
	if t.files.ClientCRL == "" || len(chains) == 0 {
		return nil
	}
	t.look()
	return t.judge(t.current.Load(), chains)
}

// Until is until when the certificate of the listener is good, and when the first
// of the revocation lists is out of date; zero: there is none. Like handshakes, it
// looks at the files at most once a second.
func (t *TLS) Until() (certificate, lists time.Time) {
	t.look()
	now := t.current.Load()
	return now.notAfter, now.lists.NextUpdate()
}

// Refresh looks at the files now.
func (t *TLS) Refresh() {
	t.looking.Lock()
	defer t.looking.Unlock()
	t.readAgain()
}

// Close closes nothing: the files are read in handshakes alone.
func (t *TLS) Close() error { return nil }

func (t *TLS) judge(by *loaded, chains [][]*x509.Certificate) error {
	err := by.lists.Judge(chains, time.Now())
	if outdated, is := errors.AsType[*revocation.Outdated](err); is {
		t.sayOutdated(by, outdated)
	}
	return err
}

// sayOutdated says once of each list that it is out of date.
func (t *TLS) sayOutdated(l *loaded, o *revocation.Outdated) {
	if _, was := l.said.LoadOrStore(*o, true); !was {
		t.log.Error("a revocation list is out of date: certificates of its authority are refused until there is a newer one",
			"file", t.files.ClientCRL, "authority", o.Authority, "next_update", o.Since)
	}
}

func settings() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, SessionTicketsDisabled: true}
}

// look reads the files again if that is due. While one handshake does, the
// others go on with what there is.
func (t *TLS) look() {
	if time.Since(*t.looked.Load()) < lookEvery || !t.looking.TryLock() {
		return
	}
	defer t.looking.Unlock()
	t.readAgain()
}

// readAgain uses the files if they have changed. t.looking is held.
func (t *TLS) readAgain() {
	now := time.Now()
	t.looked.Store(&now)
	// The content is compared: a link to a directory can be swapped for one
	// whose files are as old.
	found, err := t.files.read(t.seen)
	if err == nil && found.equal(t.seen) {
		t.seen.aboutCRL = found.aboutCRL
		return
	}
	var next *loaded
	if err == nil {
		next, err = t.files.load(found)
	}
	if err != nil {
		t.refuse(found, err)
		return
	}
	changed := t.files.changed(t.seen, found)
	t.seen, t.good = found, found
	t.log.Info("the files of the gRPC listener's TLS have changed and are in use", "changed", changed, "not_after", next.notAfter, "revocation_lists", next.lists.Len())
	t.use(next)
}

func (t *TLS) use(next *loaded) {
	if next.lists != nil {
		next.config.VerifyConnection = func(c tls.ConnectionState) error { return t.judge(next, c.VerifiedChains) }
	}
	t.current.Store(next)
	for _, o := range next.lists.Outdated(time.Now()) {
		t.sayOutdated(next, o)
	}
}

// refuse says once for each content why it is not used.
func (t *TLS) refuse(found contents, err error) {
	if found.equal(t.seen) {
		return
	}
	changed := t.files.changed(t.seen, found)
	t.seen = found
	t.log.Error("the files of the gRPC listener's TLS have changed and cannot be used; the last good ones stay", "changed", changed, "err", err)
	t.useLists(found)
}

// useLists takes the revocation lists of contents that are not used: who is
// revoked does not wait for a key that was written by half.
func (t *TLS) useLists(found contents) {
	if found.clientCRL == nil || bytes.Equal(found.clientCRL, t.good.clientCRL) {
		return
	}
	kept := t.good
	kept.clientCRL = found.clientCRL
	next, err := t.files.load(kept)
	if err != nil {
		return // refuse has said it, or will once the other file is mended
	}
	t.good = kept
	t.log.Info("of the files of the gRPC listener's TLS the revocation lists are in use", "file", t.files.ClientCRL, "revocation_lists", next.lists.Len())
	t.use(next)
}

// changed are the files whose content is another.
func (f TLSFiles) changed(before, now contents) (names []string) {
	for _, one := range []struct {
		name        string
		before, now []byte
	}{
		{f.Cert, before.cert, now.cert}, {f.Key, before.key, now.key}, {f.ClientCA, before.clientCA, now.clientCA}, {f.ClientCRL, before.clientCRL, now.clientCRL},
	} {
		if !bytes.Equal(one.before, one.now) {
			names = append(names, one.name)
		}
	}
	return names
}

// read returns what could be read, also with an error. before is what was read
// last.
func (f TLSFiles) read(before contents) (contents, error) {
	cert, certErr := readFile(f.Cert)
	key, keyErr := readFile(f.Key)
	c := contents{cert: cert, key: key}
	var caErr, crlErr error
	if f.ClientCA != "" {
		c.clientCA, caErr = readFile(f.ClientCA)
	}
	if f.ClientCRL != "" {
		c.clientCRL, c.aboutCRL, crlErr = readLists(f.ClientCRL, before)
	}
	return c, errors.Join(certErr, keyErr, caErr, crlErr)
}

// readLists reads the file of the lists, unless it looks as before.
func readLists(name string, before contents) ([]byte, fs.FileInfo, error) {
	about, err := os.Stat(name)
	if err == nil && file.Unchanged(before.aboutCRL, about) {
		return before.clientCRL, about, nil
	}
	content, err := revocation.Read(name)
	if err != nil {
		return nil, nil, fmt.Errorf("grpc.tls: client_crl_file %s %w", name, err)
	}
	return content, about, nil
}

func readFile(name string) ([]byte, error) {
	content, _, err := file.Read(name, maxFileBytes)
	switch {
	case err == nil:
		return content, nil
	case errors.Is(err, file.ErrTooLarge):
		return nil, fmt.Errorf("%s of grpc.tls is larger than 1 MiB; give a PEM file", name)
	case errors.Is(err, file.ErrNotRegular):
		return nil, fmt.Errorf("%s of grpc.tls is not a regular file; give a PEM file", name)
	}
	return nil, fmt.Errorf("cannot read a file of grpc.tls: %w; see that it is there and that fetchgate may read it", err)
}

func (f TLSFiles) load(c contents) (*loaded, error) {
	pair, err := tls.X509KeyPair(c.cert, c.key)
	if err != nil {
		return nil, fmt.Errorf("grpc.tls: cert_file %s and key_file %s are no pair: %w; give the PEM of the certificate with its chain, and of the key that belongs to it", f.Cert, f.Key, err)
	}
	config := settings()
	config.Certificates = []tls.Certificate{pair}
	if f.ClientCA != "" {
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(c.clientCA) {
			return nil, fmt.Errorf("grpc.tls: client_ca_file %s has no certificate; give the PEM of the authorities that sign those of callers", f.ClientCA)
		}
		config.ClientAuth = clientAuth(f.Optional)
	}
	l := &loaded{config: config, notAfter: pair.Leaf.NotAfter}
	if f.ClientCRL != "" {
		if l.lists, err = revocation.Parse(c.clientCRL, certificatesIn(c.clientCA)); err != nil {
			return nil, fmt.Errorf("grpc.tls: client_crl_file %s %w", f.ClientCRL, err)
		}
	}
	return l, nil
}

func clientAuth(optional bool) tls.ClientAuthType {
	if optional {
		return tls.VerifyClientCertIfGiven
	}
	return tls.RequireAndVerifyClientCert
}

// certificatesIn are those that a pool takes of a PEM file.
func certificatesIn(text []byte) (found []*x509.Certificate) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if one, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
			found = append(found, one)
		}
	}
	return found
}
