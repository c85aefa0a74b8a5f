package transport_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// The upstreams of this file send what crypto/tls does not.

// record is one plaintext TLS record (RFC 8446 section 5.1).
func record(kind byte, content ...byte) []byte {
	return append([]byte{kind, 3, 3, byte(len(content) >> 8), byte(len(content))}, content...)
}

// handshake is one handshake message (RFC 8446 section 4).
func handshake(kind byte, body ...byte) []byte {
	return append([]byte{kind, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
}

// serverHello chooses a version and a suite (RFC 5246 section 7.4.1.3).
func serverHello(version, suite uint16, extensions ...byte) []byte {
	body := binary.BigEndian.AppendUint16(nil, version)
	body = append(body, bytes.Repeat([]byte{7}, 32)...)
	body = append(body, 0) // no session
	body = binary.BigEndian.AppendUint16(body, suite)
	body = append(body, 0) // no compression
	if len(extensions) > 0 {
		body = binary.BigEndian.AppendUint16(body, uint16(len(extensions)))
		body = append(body, extensions...)
	}
	return record(22, handshake(2, body...)...)
}

const good12 = tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256

// TestTLSBytesThatBreakTheRules sends broken handshakes, each of which is
// refused at once, with one connection and not a byte of the request.
func TestTLSBytesThatBreakTheRules(t *testing.T) {
	alpn := []byte{0, 16, 0, 5, 0, 3, 2, 'h', '2'}
	for name, sent := range map[string][]byte{
		"a version that was not offered":       serverHello(tls.VersionTLS10, good12),
		"a version that does not exist":        serverHello(0x0399, good12),
		"TLS 1.5 by extension":                 serverHello(tls.VersionTLS12, tls.TLS_AES_128_GCM_SHA256, 0, 43, 0, 2, 3, 6),
		"a suite that was not offered":         serverHello(tls.VersionTLS12, tls.TLS_RSA_WITH_RC4_128_SHA),
		"a suite without encryption":           serverHello(tls.VersionTLS12, 0x0002),
		"a protocol that was not offered":      serverHello(tls.VersionTLS12, good12, alpn...),
		"a certificate message of 1 MB":        append(serverHello(tls.VersionTLS12, good12), record(22, 11, 0x10, 0, 0)...),
		"a record of 17 kB":                    {22, 3, 3, 0x48, 0x01},
		"empty records":                        bytes.Repeat(record(22), 10_000),
		"requests to negotiate anew, at first": bytes.Repeat(record(22, handshake(0)...), 10_000),
		"warnings":                             bytes.Repeat(record(21, 1, 90), 10_000),
		"an answer in plain text":              []byte("HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno"),
	} {
		t.Run(name, func(t *testing.T) {
			u := rawUpstream(t, nil, func(c net.Conn) {
				hello := make([]byte, 5)
				io.ReadFull(c, hello)
				if hello[0] != 22 {
					t.Errorf("it does not begin with a handshake: %x", hello)
				}
				c.Write(sent)
				if rest, _ := io.ReadAll(c); bytes.Contains(rest, []byte("GET ")) {
					t.Error("the request was sent in plain text")
				}
			})
			began := time.Now()
			f, facts := fails(t, newTransport(t), get(t, strings.Replace(u.url, "http:", "https:", 1), overTLS), fetch.ReasonTLSHandshake)
			if took := time.Since(began); took > time.Second || u.conns.Load() != 1 || facts.Dials != 1 || f.Sent != fetch.SentNo || len(f.Message) > 256 {
				t.Errorf("after %s, %d connections: %+v", took, u.conns.Load(), f)
			}
			u.waitGone(t)
		})
	}
}

// drip writes a byte at a time, with a pause.
type drip struct {
	net.Conn
	pause time.Duration
}

func (d drip) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := d.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
		<-time.After(d.pause)
	}
	return len(p), nil
}

// TestTLSStalls stops in the handshake, or goes on byte by byte.
func TestTLSStalls(t *testing.T) {
	for name, play := range map[string]func(c net.Conn){
		"after the ServerHello": func(c net.Conn) { c.Write(serverHello(tls.VersionTLS12, good12)); io.Copy(io.Discard, c) },
		"a byte at a time":      func(c net.Conn) { tls.Server(drip{c, 5 * time.Millisecond}, h1TLS()).Handshake() },
	} {
		t.Run(name, func(t *testing.T) {
			u := rawUpstream(t, nil, play)
			r := get(t, strings.Replace(u.url, "http:", "https:", 1), overTLS)
			r.Timeouts.TLS = 100 * time.Millisecond
			began := time.Now()
			f, _ := fails(t, newTransport(t), r, fetch.ReasonTLSTimeout)
			if took := time.Since(began); took < r.Timeouts.TLS || took > time.Second || f.Sent != fetch.SentNo {
				t.Errorf("after %s: %+v", took, f)
			}
			u.waitGone(t)
		})
	}
}

// sealer writes TLS 1.3 records in the name of a server whose handshake
// crypto/tls made (RFC 8446 sections 5.2 and 7.2).
type sealer struct {
	conn   net.Conn
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

// newSealer shakes hands on c and takes over.
func newSealer(c net.Conn) *sealer {
	var keys bytes.Buffer
	config := h1TLS()
	config.SessionTicketsDisabled = true
	config.KeyLogWriter = &keys
	config.MinVersion = tls.VersionTLS13
	secured := tls.Server(c, config)
	if secured.Handshake() != nil || secured.ConnectionState().CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		return nil
	}
	s := &sealer{conn: c}
	for line := range strings.Lines(keys.String()) {
		if name, rest, _ := strings.Cut(strings.TrimSpace(line), " "); name == "SERVER_TRAFFIC_SECRET_0" {
			_, secret, _ := strings.Cut(rest, " ")
			s.secret, _ = hex.DecodeString(secret)
		}
	}
	s.rekey()
	return s
}

func (s *sealer) expand(label string, size int) []byte {
	info := []byte{byte(size >> 8), byte(size), byte(len("tls13 ") + len(label))}
	info = append(append(info, "tls13 "+label...), 0)
	out, err := hkdf.Expand(sha256.New, s.secret, string(info), size)
	check(err)
	return out
}

func (s *sealer) rekey() {
	block, err := aes.NewCipher(s.expand("key", 16))
	check(err)
	s.aead, err = cipher.NewGCM(block)
	check(err)
	s.iv, s.seq = s.expand("iv", 12), 0
}

func (s *sealer) write(kind byte, content ...byte) error {
	inner := append(bytes.Clone(content), kind)
	size := len(inner) + s.aead.Overhead()
	head := []byte{23, 3, 3, byte(size >> 8), byte(size)}
	nonce := bytes.Clone(s.iv)
	for i := range 8 {
		nonce[4+i] ^= byte(s.seq >> (56 - 8*i))
	}
	s.seq++
	_, err := s.conn.Write(s.aead.Seal(head, nonce, inner, head))
	return err
}

// update sends a KeyUpdate (RFC 8446 section 4.6.3).
func (s *sealer) update(request byte) error {
	err := s.write(22, handshake(24, request)...)
	s.secret = s.expand("traffic upd", 32)
	s.rekey()
	return err
}

// ticket sends a NewSessionTicket (RFC 8446 section 4.6.1).
func (s *sealer) ticket() error {
	body := append([]byte{0, 0, 1, 0, 1, 2, 3, 4, 1, 9, 0, 8}, "ticket!!\x00\x00"...)
	return s.write(22, handshake(4, body...)...)
}

// TestTLSMessagesAfterTheHandshake sends a few of those that a server may send.
func TestTLSMessagesAfterTheHandshake(t *testing.T) {
	u := rawUpstream(t, nil, func(c net.Conn) {
		s := newSealer(c)
		if s == nil {
			return
		}
		for range 3 {
			s.update(0)
			s.ticket()
			s.update(1)
			s.write(23)
		}
		s.write(23, []byte("HTTP/1.1 204 No Content\r\n\r\n")...)
		io.Copy(io.Discard, c)
	})
	if e := do(t, newTransport(t), get(t, strings.Replace(u.url, "http:", "https:", 1), overTLS)); e.Status != 204 {
		t.Errorf("status %d", e.Status)
	}
}

// TestTLSFloodsAfterTheHandshake sends without end what advances nothing.
func TestTLSFloodsAfterTheHandshake(t *testing.T) {
	const many = 100_000
	for name, next := range map[string]func(s *sealer) error{
		"KeyUpdate":                   func(s *sealer) error { return s.update(0) },
		"KeyUpdate that asks for one": func(s *sealer) error { return s.update(1) },
		"NewSessionTicket":            (*sealer).ticket,
		"HelloRequest":                func(s *sealer) error { return s.write(22, handshake(0)...) },
		"empty records":               func(s *sealer) error { return s.write(23) },
	} {
		t.Run(name, func(t *testing.T) {
			written := make(chan int, 10)
			u := rawUpstream(t, nil, func(c net.Conn) {
				s := newSealer(c)
				if s == nil {
					t.Error("no handshake")
					return
				}
				n := 0
				for ; n < many && next(s) == nil; n++ {
				}
				written <- n
			})
			began := time.Now()
			_, _, err := newTransport(t).RoundTrip(t.Context(), get(t, strings.Replace(u.url, "http:", "https:", 1), overTLS))
			var f *fetch.Failure
			if err == nil {
				t.Fatal("an answer came")
			}
			if f = isFailureOfAny(t, err); time.Since(began) > 2*time.Second || len(f.Message) > 256 {
				t.Errorf("after %s: %+v", time.Since(began), f)
			}
			u.waitGone(t)
			if n := <-written; n >= many {
				t.Errorf("all %d records were taken", n)
			}
		})
	}
}

// isFailureOfAny wants a failure for whatever reason.
func isFailureOfAny(t *testing.T, err error) *fetch.Failure {
	t.Helper()
	f, ok := err.(*fetch.Failure)
	if !ok {
		t.Fatalf("error is %T %v; want a *fetch.Failure", err, err)
	}
	return f
}
