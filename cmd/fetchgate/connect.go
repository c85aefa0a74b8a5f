package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// serviceFlags say which service is asked, and how the two know each other.
type serviceFlags struct {
	Address string `default:"${defaultAddress}" env:"FETCHGATE_ADDRESS" group:"The service" placeholder:"HOST:PORT" help:"The service to ask (default ${defaultAddress})."`
	TLS     bool   `name:"tls" group:"The service" help:"Speak TLS to the service, whose certificate an authority of this machine signed."`
	CA      string `name:"ca" type:"given" group:"The service" placeholder:"FILE" help:"Speak TLS to the service, whose certificate an authority of FILE (PEM) signed."`
	Cert    string `name:"cert" type:"given" and:"certificate" group:"The service" placeholder:"FILE" help:"Speak TLS, and show the service this certificate (PEM): with grpc.tls.client_ca_file it asks for one."`
	Key     string `name:"key" type:"given" and:"certificate" group:"The service" placeholder:"FILE" help:"The key of --cert (PEM)."`
}

// connect returns a connection to the service. It is made with the first RPC.
func (f *serviceFlags) connect() (*connection, error) {
	secured, err := f.secured()
	if err != nil {
		return nil, &problem{exitUsage, "cannot use the files for TLS", err.Error(), "name PEM files that can be read with --ca, --cert and --key"}
	}
	c, err := dial(f.Address, secured)
	if err != nil {
		return nil, &problem{exitUsage, "cannot use the address " + f.Address, err.Error(), "write it as HOST:PORT"}
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
	c.Certificates = []tls.Certificate{pair}
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
