package service

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"time"

	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/listener"
)

// listenerTLS is the TLS of the gRPC listener, from files or a Workload API. Its
// content changes while it serves.
type listenerTLS interface {
	Config() *tls.Config
	// Judge says why what was verified in a handshake is not good any more.
	Judge(chains [][]*x509.Certificate) error
	// Until is until when the certificate is good, and when the first revocation
	// list is out of date; zero: there is none.
	Until() (certificate, lists time.Time)
	// Refresh looks at once whether the content has changed.
	Refresh()
	// Close ends what renews the content, and waits for that.
	Close() error
}

func newListenerTLS(c *config.Loaded, log *slog.Logger) (listenerTLS, error) {
	from := c.Config.GetGrpc().GetTls()
	if c.SPIFFEOnly() {
		w, err := listener.NewWorkload(from.GetWorkloadApi(), c.ClientCertificatesOptional(), log)
		if err != nil {
			return nil, err
		}
		return w, nil
	}
	t, err := listener.NewTLS(listener.TLSFiles{
		Cert: c.File(from.GetCertFile()), Key: c.File(from.GetKeyFile()), ClientCA: c.File(from.GetClientCaFile()),
		ClientCRL: c.File(from.GetClientCrlFile()), Optional: c.ClientCertificatesOptional(),
	}, log)
	if err != nil {
		return nil, err
	}
	return t, nil
}

// listenerUntil is what the metrics say of the listener's TLS; nil: it has none.
func (s *Service) listenerUntil() func() (certificate, lists time.Time) {
	if s.tls == nil {
		return nil
	}
	return s.tls.Until
}

// certificatesJudge is what judges the certificates of callers; nil: nothing has
// to, since none can go bad but by its age. It goes by the configuration of the
// start, as the listener does.
func (s *Service) certificatesJudge() func([][]*x509.Certificate) error {
	if !s.config.SPIFFEOnly() && s.config.Config.GetGrpc().GetTls().GetClientCrlFile() == "" {
		return nil
	}
	return func(chains [][]*x509.Certificate) error { return s.tls.Judge(chains) }
}

// refreshTLS has the listener look for a new certificate at once.
func (s *Service) refreshTLS() {
	if s.tls != nil {
		s.tls.Refresh()
	}
}

// closeTLS ends what renews the listener's TLS.
func (s *Service) closeTLS() {
	if s.tls == nil {
		return
	}
	if err := s.tls.Close(); err != nil {
		s.log.Warn("closing the connection to the Workload API", "err", err)
	}
}
