package listener

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fetchgate/fetchgate/service/file"
)

// lookEvery is the least time between two looks at the files.
const lookEvery = time.Second

// maxFileBytes bounds a PEM file.
const maxFileBytes = 1 << 20

// TLSFiles are the PEM files of a listener's TLS.
type TLSFiles struct {
	// Cert is the file of the certificate and its chain, Key that of its key.
	Cert, Key string
	// ClientCA is the file of the authorities that sign the certificates of
	// callers; empty: callers show none.
	ClientCA string
}

// TLS serves a certificate that is read again when its files change. There is
// no revocation: a caller's certificate is good until it expires, or until its
// authority goes from ClientCA and its connection ends.
type TLS struct {
	files   TLSFiles
	log     *slog.Logger
	current atomic.Pointer[loaded]

	looking sync.Mutex // held by whom looks at the files
	looked  atomic.Pointer[time.Time]
	// seen is the content that was tried last, good or not.
	seen contents
}

// loaded is what content of the files became.
type loaded struct {
	config   *tls.Config
	notAfter time.Time
}

// contents are the bytes of the files.
type contents struct{ cert, key, clientCA []byte }

func (c contents) equal(d contents) bool {
	return bytes.Equal(c.cert, d.cert) && bytes.Equal(c.key, d.key) && bytes.Equal(c.clientCA, d.clientCA)
}

// NewTLS reads the files; its error says which of them to mend. A nil log
// discards what is said about changes.
func NewTLS(files TLSFiles, log *slog.Logger) (*TLS, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	t := &TLS{files: files, log: log}
	var err error
	if t.seen, err = files.read(); err != nil {
		return nil, err
	}
	first, err := files.load(t.seen)
	if err != nil {
		return nil, err
	}
	t.current.Store(first)
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

// NotAfter is when the certificate that is served expires.
func (t *TLS) NotAfter() time.Time {
	t.look()
	return t.current.Load().notAfter
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
	now := time.Now()
	t.looked.Store(&now)
	// The content is compared: a link to a directory can be swapped for one
	// whose files are as old.
	found, err := t.files.read()
	if err == nil && found.equal(t.seen) {
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
	t.seen = found
	t.current.Store(next)
	t.log.Info("the files of the gRPC listener's TLS have changed and are in use", "not_after", next.notAfter)
}

// refuse says once for each content why it is not used.
func (t *TLS) refuse(found contents, err error) {
	if found.equal(t.seen) {
		return
	}
	t.seen = found
	t.log.Error("the files of the gRPC listener's TLS have changed and cannot be used; the last good ones stay", "err", err)
}

// read returns what could be read, also with an error.
func (f TLSFiles) read() (contents, error) {
	cert, certErr := readFile(f.Cert)
	key, keyErr := readFile(f.Key)
	c := contents{cert: cert, key: key}
	var caErr error
	if f.ClientCA != "" {
		c.clientCA, caErr = readFile(f.ClientCA)
	}
	return c, errors.Join(certErr, keyErr, caErr)
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
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return &loaded{config: config, notAfter: pair.Leaf.NotAfter}, nil
}
