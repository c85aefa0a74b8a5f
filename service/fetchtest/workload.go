package fetchtest

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// WorkloadAPI is a SPIFFE Workload API at a unix socket, as an agent offers it.
type WorkloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	t      testing.TB
	socket string

	mu       sync.Mutex // guards what follows
	server   *grpc.Server
	served   chan error
	response *workload.X509SVIDResponse // nil: fetchgate has no identity
	refusal  error                      // what streams end with that wait for another response
	changed  chan struct{}              // closed with the next change of the two
}

// NewWorkloadAPI starts an API that gives nothing yet. It ends with the test.
func NewWorkloadAPI(t testing.TB) *WorkloadAPI {
	t.Helper()
	// A directory of the test may have a name that is too long for a socket.
	dir, err := os.MkdirTemp("", "workload")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &WorkloadAPI{t: t, socket: filepath.Join(dir, "agent.sock"), changed: make(chan struct{})}
	w.Start()
	t.Cleanup(w.Stop)
	return w
}

// Address is where it is, for grpc.tls.workload_api.
func (w *WorkloadAPI) Address() string { return "unix://" + w.socket }

// Start serves again after Stop.
func (w *WorkloadAPI) Start() {
	w.t.Helper()
	l, err := net.Listen("unix", w.socket)
	if err != nil {
		w.t.Fatalf("fetchtest: %v", err)
	}
	server, served := grpc.NewServer(), make(chan error, 1)
	workload.RegisterSpiffeWorkloadAPIServer(server, w)
	w.mu.Lock()
	w.server, w.served = server, served
	w.mu.Unlock()
	go func() { served <- server.Serve(l) }()
}

// Stop ends the API and its streams, as an agent does that goes away.
func (w *WorkloadAPI) Stop() {
	w.mu.Lock()
	server, served := w.server, w.served
	w.server = nil
	w.mu.Unlock()
	if server == nil {
		return
	}
	server.Stop()
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		w.t.Errorf("fetchtest: the Workload API ended with %v", err)
	}
}

// Give gives a certificate, whose SPIFFE ID is id, and the authorities of trust
// domains: own are those of id's, federated those of others by name. Streams that
// are open get it too.
func (w *WorkloadAPI) Give(id string, svid tls.Certificate, own []*Authority, federated map[string][]*Authority) {
	w.t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(svid.PrivateKey)
	if err != nil {
		w.t.Fatalf("fetchtest: encode the key: %v", err)
	}
	r := &workload.X509SVIDResponse{
		Svids: []*workload.X509SVID{{
			SpiffeId: id, X509Svid: bytes.Join(svid.Certificate, nil), X509SvidKey: key, Bundle: bundleOf(own),
		}},
		FederatedBundles: map[string][]byte{},
	}
	for domain, authorities := range federated {
		r.FederatedBundles[domain] = bundleOf(authorities)
	}
	w.change(r, nil)
}

// Refuse ends the streams that are open, and those to come until Give, with an
// error.
func (w *WorkloadAPI) Refuse(err error) { w.change(nil, err) }

func (w *WorkloadAPI) change(response *workload.X509SVIDResponse, refusal error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.response, w.refusal = response, refusal
	close(w.changed)
	w.changed = make(chan struct{})
}

func bundleOf(authorities []*Authority) (all []byte) {
	for _, a := range authorities {
		all = append(all, a.certificate.Raw...)
	}
	return all
}

// FetchX509SVID is called by gRPC.
func (w *WorkloadAPI) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	if md, _ := metadata.FromIncomingContext(stream.Context()); len(md.Get("workload.spiffe.io")) == 0 {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	for {
		w.mu.Lock()
		response, refusal, changed := w.response, w.refusal, w.changed
		w.mu.Unlock()
		switch {
		case refusal != nil:
			return refusal
		case response == nil:
			return status.Error(codes.PermissionDenied, "no identity issued")
		}
		if err := stream.Send(response); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}
