package service

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/revocation"
)

// Why handshakes of callers fail; docs/metrics.md says what they mean.
const (
	noCertificate  = "no_certificate"
	badCertificate = "bad_certificate"
	revoked        = "revoked"
	outdatedList   = "outdated_list"
	notTLS         = "not_tls"
	distrusted     = "distrusted"
	otherProtocol  = "protocol"
	timedOut       = "timeout"
	endedEarly     = "closed"
)

// handshakes takes note of the TLS handshakes of callers that fail: no RPC comes
// of them that could be recorded.
type handshakes struct {
	log   *slog.Logger
	count func(why string)

	mu   sync.Mutex
	said time.Time
}

// handshakeSayEvery is the least time between two lines of the log.
const handshakeSayEvery = time.Second

// maxHandshakeError is the most bytes of an error in the log: what a caller sent
// may be in it.
const maxHandshakeError = 512

// failed counts one failure and says it, unless another was said a moment ago. A
// connection that just ended is counted alone: load balancers probe so.
func (h *handshakes) failed(peer net.Addr, err error) {
	why := whyFailed(err)
	h.count(why)
	if why == endedEarly || !h.isDue(time.Now()) {
		return
	}
	h.log.Warn("a TLS handshake of a caller failed", "peer", peer.String(), "why", why,
		"err", fetch.Escape([]byte(err.Error()), maxHandshakeError))
}

func (h *handshakes) isDue(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now.Sub(h.said) < handshakeSayEvery {
		return false
	}
	h.said = now
	return true
}

// whyFailed is the class of the error of a handshake. crypto/tls has no type for
// a certificate that is missing or cannot be read, nor for an alert.
func whyFailed(err error) string {
	_, isNotTLS := errors.AsType[tls.RecordHeaderError](err)
	_, isUnverified := errors.AsType[*tls.CertificateVerificationError](err)
	_, isRevoked := errors.AsType[*revocation.Revoked](err)
	_, isOutdated := errors.AsType[*revocation.Outdated](err)
	network, isNetwork := errors.AsType[net.Error](err)
	operation, isOperation := errors.AsType[*net.OpError](err)
	switch {
	case isNotTLS:
		return notTLS
	case isUnverified:
		return badCertificate
	case isRevoked:
		return revoked
	case isOutdated:
		return outdatedList
	case isOperation && operation.Op == "remote error":
		return distrusted
	case isNetwork && network.Timeout():
		return timedOut
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed):
		return endedEarly
	case strings.Contains(err.Error(), "didn't provide a certificate"):
		return noCertificate
	case strings.Contains(err.Error(), "client certificate"):
		return badCertificate
	}
	return otherProtocol
}
