package config

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// IsFile tells that the configuration was read from a file, which can be read
// again.
func (l *Loaded) IsFile() bool { return l.fromFile }

// Watch tells whether changes of the files are noticed. Default true.
func (l *Loaded) Watch() bool {
	r := l.Config.GetReload()
	return r == nil || r.Watch == nil || r.GetWatch()
}

// RevokeGrace returns how long a fetch may go on that a new configuration
// denies, 0 to 1 h. Default 5 s.
func (l *Loaded) RevokeGrace() time.Duration {
	grace := 5 * time.Second
	setDuration(&grace, l.Config.GetReload().GetRevokeGrace())
	return grace
}

// Reload reads the file of l again. digest is that of what was read, also with
// an error; empty if it could not be. The next generation has the number after
// that of l.
//
// A file is refused too if its last line does not end while that of l does: it
// is being written, and half an origin is an origin of its own.
func (l *Loaded) Reload() (next *Loaded, digest string, err error) {
	if !l.fromFile {
		return nil, "", errors.New("there is no configuration file; name one with --config and start again")
	}
	text, err := readFile(l.Source)
	if err != nil {
		return nil, "", unreadable(l.Source, err)
	}
	digest = fmt.Sprintf("%x", sha256.Sum256(text))
	next, err = parse(l.Source, text, l.lists)
	if err == nil && !l.openEnded && isOpenEnded(text) {
		at := lastLine(text)
		at.Message = "ends in the middle of a line, as a file does that is being written; end its last line, or write it to another file and rename that"
		err = newError(l.Source, []Problem{at})
	}
	if err != nil {
		return nil, digest, err
	}
	next.fromFile, next.openEnded = true, isOpenEnded(text)
	next.Generation = l.Generation + 1
	return next, digest, nil
}

func isOpenEnded(text []byte) bool { return !bytes.HasSuffix(text, []byte("\n")) }

func lastLine(text []byte) Problem {
	line, column := lastWritten(text)
	return Problem{Line: line, Column: column}
}

// Equal tells that l and other say the same, byte for byte, the certificates of
// upstream_tls.ca_files and of profiles and the lists of grpc.tls.client_crl_file
// included.
func (l *Loaded) Equal(other *Loaded) bool {
	return l.Digest == other.Digest && l.lists.content == other.lists.content && reflect.DeepEqual(raw(l.authorities), raw(other.authorities)) &&
		slices.EqualFunc(l.profileAuthorities, other.profileAuthorities, func(a, b []*x509.Certificate) bool { return reflect.DeepEqual(raw(a), raw(b)) })
}

func raw(certificates []*x509.Certificate) (all [][]byte) {
	for _, c := range certificates {
		all = append(all, c.Raw)
	}
	return all
}

// Files returns the files whose change can change the configuration, or mend one
// that was refused: its own first.
func (l *Loaded) Files() []string {
	files := []string{l.Source}
	add := func(name string) {
		if name != "" {
			files = append(files, l.File(name))
		}
	}
	for _, name := range l.Config.GetUpstreamTls().GetCaFiles() {
		add(name)
	}
	for _, profile := range l.Config.GetTlsProfiles() {
		for _, name := range profile.GetCaFiles() {
			add(name)
		}
	}
	for _, issuer := range l.Config.GetJwtIssuers() {
		add(issuer.GetJwksFile())
	}
	tls := l.Config.GetGrpc().GetTls()
	add(tls.GetCertFile())
	add(tls.GetKeyFile())
	add(tls.GetClientCaFile())
	add(tls.GetClientCrlFile())
	return files
}

// fixed are the settings that are read once, when the server starts, but for
// those of fixedLimits.
var fixed = []struct {
	path string
	of   func(*Loaded) any
}{
	{"grpc.address", func(l *Loaded) any { return l.GRPCAddress() }},
	{"grpc.max_concurrent_streams", func(l *Loaded) any { return l.MaxConcurrentStreams() }},
	{"grpc.max_connections", func(l *Loaded) any { total, _ := l.MaxConnections(); return total }},
	{"grpc.max_connections_per_peer", func(l *Loaded) any { _, perPeer := l.MaxConnections(); return perPeer }},
	{"grpc.unix.path", func(l *Loaded) any { path, _ := l.UnixSocket(); return path }},
	{"grpc.unix.mode", func(l *Loaded) any { _, mode := l.UnixSocket(); return mode }},
	{"grpc.tls", func(l *Loaded) any { return l.Config.GetGrpc().GetTls() != nil }},
	{"grpc.tls.cert_file", func(l *Loaded) any { return l.File(l.Config.GetGrpc().GetTls().GetCertFile()) }},
	{"grpc.tls.key_file", func(l *Loaded) any { return l.File(l.Config.GetGrpc().GetTls().GetKeyFile()) }},
	{"grpc.tls.client_ca_file", func(l *Loaded) any { return l.File(l.Config.GetGrpc().GetTls().GetClientCaFile()) }},
	{"grpc.tls.client_crl_file", func(l *Loaded) any { return l.File(l.Config.GetGrpc().GetTls().GetClientCrlFile()) }},
	{"grpc.tls.client_certificates", func(l *Loaded) any { return l.ClientCertificatesOptional() }},
	{"grpc.tls.workload_api", func(l *Loaded) any { return l.Config.GetGrpc().GetTls().GetWorkloadApi() }},
	{"http.address", func(l *Loaded) any { return l.HTTPAddress() }},
	{"log.level", func(l *Loaded) any { return l.LogLevel() }},
	{"log.format", func(l *Loaded) any { return l.LogJSON() }},
	{"audit.sink", func(l *Loaded) any { return l.Audit().GetSink() }},
	{"audit.file", func(l *Loaded) any { return l.Audit().GetFile() }},
	{"audit.detail", func(l *Loaded) any { return l.Audit().GetDetail() }},
	{"audit.on_full", func(l *Loaded) any { return l.Audit().GetOnFull() }},
	{"audit.max_file_bytes", func(l *Loaded) any { return l.Audit().GetMaxFileBytes() }},
	{"audit.keep_files", func(l *Loaded) any { return l.Audit().GetKeepFiles() }},
	{"audit.max_queue_bytes", func(l *Loaded) any { return l.Audit().GetMaxQueueBytes() }},
	{"audit.otlp_endpoint", func(l *Loaded) any { return l.Audit().GetOtlpEndpoint() }},
	{"telemetry.tracing.otlp_endpoint", func(l *Loaded) any { return l.Config.GetTelemetry().GetTracing().GetOtlpEndpoint() }},
}

// fixedLimit is a limit that is read once, when the server starts.
type fixedLimit struct {
	name  string
	value any // a pointer
}

func fixedLimits(l *fetch.Limits) []fixedLimit {
	return []fixedLimit{
		{"max_response_fields", &l.MaxResponseFields},
		{"max_response_field_bytes", &l.MaxResponseFieldBytes},
		{"max_connections_per_route", &l.MaxConnectionsPerRoute},
		{"max_idle_connections_per_route", &l.MaxIdlePerRoute},
		{"max_idle_connections", &l.MaxIdle},
		{"idle_timeout", &l.IdleTimeout},
		{"connection_lifetime", &l.ConnectionLifetime},
		{"max_connections", &l.MaxConnections},
		{"max_live_fetches", &l.MaxLiveFetches},
		{"max_live_fetches_per_caller", &l.MaxLiveFetchesPerCaller},
		{"max_live_fetches_per_peer", &l.MaxLiveFetchesPerPeer},
		{"max_held_bytes", &l.MaxHeldBytes},
		{"retry_budget_ratio", &l.RetryBudgetRatio},
		{"retry_budget_per_second", &l.RetryBudgetPerSecond},
		{"caller_stall", &l.CallerStall},
	}
}

// KeepFixed returns next, but for the limits that are read once, when the server
// starts: those of started.
func KeepFixed(next, started fetch.Limits) fetch.Limits {
	from := fixedLimits(&started)
	for i, to := range fixedLimits(&next) {
		reflect.ValueOf(to.value).Elem().Set(reflect.ValueOf(from[i].value).Elem())
	}
	return next
}

// WaitForRestart returns the settings that differ from those that the server
// started with, and that only another start can change.
func (l *Loaded) WaitForRestart(started *Loaded) (paths []string) {
	for _, f := range fixed {
		if f.of(l) != f.of(started) {
			paths = append(paths, f.path)
		}
	}
	next, first := l.Limits(), started.Limits()
	from := fixedLimits(&first)
	for i, to := range fixedLimits(&next) {
		if !reflect.DeepEqual(to.value, from[i].value) {
			paths = append(paths, "limits."+to.name)
		}
	}
	return paths
}
