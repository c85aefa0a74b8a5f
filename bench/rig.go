package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

const (
	// configuration is that of fetchgate, but for the upstream's origin.
	configuration = `grpc:
  address: 127.0.0.1:0
http:
  address: 127.0.0.1:0
rules:
  - name: bench
    origins: ["%s"]
    dangerous_allow_loopback: true
`
	// trust has fetchgate trust the upstream's certificate.
	trust = `upstream_tls:
  ca_files: [` + certificateFile + `]
`
	// roomy makes room for slow streams, of which the default limits keep some out.
	roomy = `limits:
  min_throughput_bytes_per_second: 1
  max_connections: %[1]d
  max_connections_per_route: %[1]d
  max_live_fetches: %[1]d
  max_live_fetches_per_caller: %[1]d
  max_live_fetches_per_peer: %[1]d
`
	certificateFile = "upstream.crt"
	keyFile         = "upstream.key"
)

// These tell where a program listens: for the API or for HTTP, and fetchgate for
// metrics, too.
var (
	saysFetchgate = regexp.MustCompile(`gRPC +(127\.0\.0\.1:[0-9]+)\n +HTTP +http://(127\.0\.0\.1:[0-9]+)/`)
	saysNaive     = regexp.MustCompile(`gRPC +(127\.0\.0\.1:[0-9]+)\n`)
	saysUpstream  = regexp.MustCompile(`HTTP +(127\.0\.0\.1:[0-9]+)\n`)
)

// rig is what one run starts: programs that were built into a directory.
type rig struct {
	settings
	dir    string
	commit string // of the revision to compare with, or empty
}

// startUpstream starts an upstream, by the name of its subcommand.
func (r *rig) startUpstream(ctx context.Context, name string) (*process, error) {
	p := program{name: name, path: r.binary("bench"), args: []string{name}, says: saysUpstream}
	if r.tls {
		certificate, key := filepath.Join(r.dir, certificateFile), filepath.Join(r.dir, keyFile)
		if err := writeCertificate(certificate, key); err != nil {
			return nil, err
		}
		p.args = append(p.args, certificate, key)
	}
	return start(ctx, p)
}

// origin is where an upstream serves.
func (r *rig) origin(upstream *process) string {
	if r.tls {
		return "https://" + upstream.address
	}
	return "http://" + upstream.address
}

// configure writes the configuration of a fetchgate that fetches from origin.
func (r *rig) configure(origin string) error {
	return os.WriteFile(r.config(), []byte(r.configured(origin)), 0o600)
}

func (r *rig) config() string { return filepath.Join(r.dir, "fetchgate.yaml") }

// services are the two that are compared: this tree's fetchgate, and that of the
// revision or naive. Both fetchgates have the same configuration.
func (r *rig) services() [2]program {
	ours := program{name: "fetchgate", path: r.binary("fetchgate"), args: []string{"serve", "--config", r.config()}, says: saysFetchgate}
	if r.against != "" {
		theirs := ours
		ours.name, theirs.name, theirs.path = "this tree", r.against, r.binary("revision/fetchgate")
		return [2]program{ours, theirs}
	}
	naive := program{name: "naive", path: r.binary("naive"), says: saysNaive}
	if r.tls {
		naive.env = []string{"SSL_CERT_FILE=" + filepath.Join(r.dir, certificateFile)}
	}
	return [2]program{ours, naive}
}

func (r *rig) configured(origin string) string {
	text := fmt.Sprintf(configuration, origin)
	if r.tls {
		text += trust
	}
	if r.slow > 0 {
		text += fmt.Sprintf(roomy, r.slow+spare)
	}
	return text
}

// compared says what the columns are, and how the upstream was spoken to.
func (r *rig) compared() string {
	text := "HTTP/1.1"
	if r.tls {
		text += " with TLS"
	}
	if r.commit != "" {
		text += fmt.Sprintf("; %s is %s", r.against, r.commit)
	}
	return text
}

// binary is the path of a binary that build wrote.
func (r *rig) binary(name string) string { return filepath.Join(r.dir, name) }
