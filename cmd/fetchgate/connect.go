package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"

	"google.golang.org/grpc"
)

// serviceFlags say which service is asked, and how the two know each other.
type serviceFlags struct {
	Address string `default:"${defaultAddress}" env:"FETCHGATE_ADDRESS" group:"The service" placeholder:"HOST:PORT" help:"The service to ask (default ${defaultAddress}); a unix socket is unix:///PATH."`
	TLS     bool   `name:"tls" group:"The service" help:"Speak TLS to the service, whose certificate an authority of this machine signed."`
	CA      string `name:"ca" type:"given" group:"The service" placeholder:"FILE" help:"Speak TLS to the service, whose certificate an authority of FILE (PEM) signed."`
	Cert    string `name:"cert" type:"given" and:"certificate" group:"The service" placeholder:"FILE" help:"Speak TLS, and show the service this certificate (PEM): with grpc.tls.client_ca_file it asks for one."`
	Key     string `name:"key" type:"given" and:"certificate" group:"The service" placeholder:"FILE" help:"The key of --cert (PEM)."`

	TokenFile string `name:"token-file" type:"given" env:"FETCHGATE_TOKEN_FILE" group:"The service" placeholder:"FILE" help:"Show the service the token in FILE, as one of callers[].token_sha256 or jwt_issuers."`
}

// connect returns a connection to the service. It is made with the first RPC.
func (f *serviceFlags) connect() (*connection, error) {
	secured, err := f.secured()
	if err != nil {
		return nil, &problem{exitUsage, "cannot use the files for TLS", err.Error(), "name PEM files that can be read with --ca, --cert and --key"}
	}
	if _, isSocket := socketPath(f.Address); isSocket && secured != nil {
		return nil, &problem{exitUsage, "cannot speak TLS over " + f.Address, "a unix socket has none: the system says who is at its ends", "leave --tls, --ca, --cert and --key out"}
	}
	var more []grpc.DialOption
	if f.TokenFile != "" {
		token, err := f.token(secured != nil)
		if err != nil {
			return nil, err
		}
		more = append(more, grpc.WithPerRPCCredentials(token))
	}
	c, err := dial(f.Address, secured, more...)
	if err != nil {
		return nil, &problem{exitUsage, "cannot use the address " + f.Address, err.Error(), "write it as HOST:PORT, or unix:///PATH"}
	}
	return c, nil
}

// secured is how TLS is spoken to the service; nil: it is not.
func (f *serviceFlags) secured() (*tls.Config, error) {
	if !f.TLS && f.CA == "" && f.Cert == "" {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.CA != "" {
		authorities, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("--ca %s: %w", f.CA, bare(err))
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(authorities) {
			return nil, fmt.Errorf("--ca %s: it holds no certificate in PEM", f.CA)
		}
	}
	if f.Cert == "" {
		return c, nil
	}
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("--cert %s, --key %s: %w", f.Cert, f.Key, err)
	}
	// Of its own, Go shows none that the authorities which the server names did not
	// sign: then the server would say that none came, and not what is wrong with it.
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	return c, nil
}

// bare is what is wrong with a file, without the file's name.
func bare(err error) error {
	var wrong *fs.PathError
	if errors.As(err, &wrong) {
		return wrong.Err
	}
	return err
}

// token reads the token to show. Without TLS it goes to this machine alone.
func (f *serviceFlags) token(secured bool) (shownToken, error) {
	text, err := os.ReadFile(f.TokenFile)
	token, ok := asToken(text)
	switch {
	case err != nil:
		return "", &problem{exitUsage, "cannot read the token", fmt.Sprintf("--token-file %s: %v", f.TokenFile, bare(err)), "name a file that can be read"}
	case !ok:
		return "", &problem{exitUsage, "cannot use the token", fmt.Sprintf("--token-file %s: it holds no token, or more than one", f.TokenFile), "write one token into the file, as it was issued"}
	case !secured && !isHere(f.Address):
		return "", &problem{exitUsage, "the token was not sent", "without TLS others on the way to " + f.Address + " could read it", "speak TLS to the service with --tls or --ca"}
	}
	return shownToken(token), nil
}

// isHere tells whether an address is one of this machine.
func isHere(address string) bool {
	if _, isSocket := socketPath(address); isSocket {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return true // which is told of the address itself
	}
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
}

// shownToken is a token that each RPC shows the service.
type shownToken string

// GetRequestMetadata is how gRPC asks for it.
func (t shownToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(t)}, nil
}

// RequireTransportSecurity leaves that to who made it, who knows the address.
func (shownToken) RequireTransportSecurity() bool { return false }
