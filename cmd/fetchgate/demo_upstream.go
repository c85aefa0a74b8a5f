package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/pem"
	"hash"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// demoGreeting is the upstream's answer to /hello.
const demoGreeting = "Hello from the upstream of the demo."

// demoTraps are where the redirects of /trap/NAME lead.
var demoTraps = map[string]string{
	"metadata": "http://169.254.169.254/latest/meta-data/",
	"private":  "http://10.0.0.1/",
}

// demoUpstream is an upstream that records what it is asked. Each origin is one
// listener on loopback; all of them answer alike.
type demoUpstream struct {
	plain     string // http
	secure    string // https, with a good certificate
	misnamed  string // https, with a certificate for another name
	stranger  string // https, with a certificate of an unknown authority
	authority []byte // what signed all certificates but the last, PEM
	secureKey [sha256.Size]byte

	broken  string // the step in which it misbehaves
	server  http.Server
	running sync.WaitGroup // one goroutine for each listener

	mu       sync.Mutex
	recorded []recordedRequest
	sent     int64
	sum      hash.Hash // of what was streamed
	steady   bool      // whether /unsteady answers 200
}

// recordedRequest is a request as it arrived.
type recordedRequest struct {
	line   string // method and target
	fields http.Header
}

// startDemoUpstream listens on free ports of loopback. It misbehaves in the
// step called broken.
func startDemoUpstream(broken string) (*demoUpstream, error) {
	u := &demoUpstream{broken: broken, sum: sha256.New()}
	routes := http.NewServeMux()
	routes.HandleFunc("/hello", u.hello)
	routes.HandleFunc("/stream/{bytes}", u.stream)
	routes.HandleFunc("/unsteady", u.unsteady)
	routes.HandleFunc("/moved", u.moved)
	routes.HandleFunc("/arrived", greet)
	routes.HandleFunc("/trap/{name}", u.trap)
	routes.HandleFunc("/cut", u.cut)
	routes.HandleFunc("/reports/{number}", u.report)
	u.server = http.Server{
		Handler:           u.record(routes),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // failed handshakes are what the demo shows
	}
	if err := u.listen(); err != nil {
		u.close()
		return nil, err
	}
	return u, nil
}

// listen opens the four origins.
func (u *demoUpstream) listen() error {
	authority, err := newDemoAuthority()
	if err != nil {
		return err
	}
	unknown, err := newDemoAuthority()
	if err != nil {
		return err
	}
	u.authority = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.certificate.Raw})
	good, err := authority.issue("127.0.0.1")
	if err != nil {
		return err
	}
	u.secureKey = sha256.Sum256(good.Leaf.RawSubjectPublicKeyInfo)
	misnamed, err := authority.issue("elsewhere.example")
	if err != nil {
		return err
	}
	stranger, err := unknown.issue("127.0.0.1")
	if err != nil {
		return err
	}
	if u.broken == "tls" {
		misnamed, stranger = good, good
	}
	for _, l := range []struct {
		origin      *string
		certificate *tls.Certificate
	}{{&u.plain, nil}, {&u.secure, good}, {&u.misnamed, misnamed}, {&u.stranger, stranger}} {
		if *l.origin, err = u.serve(l.certificate); err != nil {
			return err
		}
	}
	return nil
}

// serve opens one listener, with TLS if there is a certificate, and returns its
// origin.
func (u *demoUpstream) serve(certificate *tls.Certificate) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	origin := "http://" + listener.Addr().String()
	if certificate != nil {
		origin = "https://" + listener.Addr().String()
		listener = tls.NewListener(listener, &tls.Config{
			Certificates: []tls.Certificate{*certificate},
			NextProtos:   []string{"h2", "http/1.1"},
		})
	}
	u.running.Go(func() { _ = u.server.Serve(listener) }) // until close
	return origin, nil
}

// close ends every connection and waits for the listeners.
func (u *demoUpstream) close() {
	u.server.Close()
	u.running.Wait()
}

func (u *demoUpstream) record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		u.recorded = append(u.recorded, recordedRequest{r.Method + " " + r.RequestURI, r.Header.Clone()})
		u.mu.Unlock()
		next.ServeHTTP(w, r)
	})
}

// requests are all that arrived so far.
func (u *demoUpstream) requests() []recordedRequest {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]recordedRequest(nil), u.recorded...)
}

// plant sends a request past fetchgate.
func (u *demoUpstream) plant(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.plain+"/hello", nil)
	if err != nil {
		return err
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

func (u *demoUpstream) hello(w http.ResponseWriter, _ *http.Request) {
	if u.broken == "fetch" {
		w.WriteHeader(http.StatusTeapot)
	}
	_, _ = io.WriteString(w, demoGreeting)
}

// unsteady answers every other request with 503.
func (u *demoUpstream) unsteady(w http.ResponseWriter, _ *http.Request) {
	u.mu.Lock()
	steady := u.steady
	u.steady = !steady && u.broken != "retry"
	u.mu.Unlock()
	if !steady {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = io.WriteString(w, demoGreeting)
}

// moved leads to /arrived.
func (u *demoUpstream) moved(w http.ResponseWriter, r *http.Request) {
	if u.broken == "redirect" {
		greet(w, r)
		return
	}
	http.Redirect(w, r, "/arrived", http.StatusFound)
}

// report stands for an API that the next policy closes.
func (u *demoUpstream) report(w http.ResponseWriter, r *http.Request) {
	if u.broken == "policy" {
		http.Redirect(w, r, "/arrived", http.StatusFound)
		return
	}
	greet(w, r)
}

func greet(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, demoGreeting) }

// trap leads to where no caller may go.
func (u *demoUpstream) trap(w http.ResponseWriter, r *http.Request) {
	to := demoTraps[r.PathValue("name")]
	if u.broken == "trap" {
		to = "/arrived"
	}
	http.Redirect(w, r, to, http.StatusFound)
}

// cut hangs up before the end of the body that it announced.
func (u *demoUpstream) cut(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", strconv.Itoa(demoWhole))
	size := demoPrefix
	if u.broken == "cut" {
		size = demoWhole
	}
	_, _ = w.Write(make([]byte, size))
	if size < demoWhole {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// stream sends as many bytes as the path says, no two pieces of which are the
// same, so that one that is lost, doubled or moved shows.
func (u *demoUpstream) stream(w http.ResponseWriter, r *http.Request) {
	left, err := strconv.ParseInt(r.PathValue("bytes"), 10, 64)
	if err != nil || left < 0 {
		http.Error(w, "the path is /stream/BYTES", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(left, 10))
	piece := make([]byte, 64<<10)
	_, _ = rand.Read(piece)
	for number := uint64(0); left > 0; number++ {
		binary.BigEndian.PutUint64(piece, number)
		size := min(left, int64(len(piece)))
		u.count(piece[:size])
		if u.broken == "stream" && number == 1 {
			piece[100] ^= 1 // after it was counted
		}
		if _, err := w.Write(piece[:size]); err != nil {
			return
		}
		left -= size
	}
}

func (u *demoUpstream) count(piece []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sent += int64(len(piece))
	u.sum.Write(piece)
}

// streamed tells how much was streamed, and its SHA-256.
func (u *demoUpstream) streamed() (sent int64, sum []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sent, u.sum.Sum(nil)
}
