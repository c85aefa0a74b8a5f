package caller

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// maxTokenBytes is the longest token that is read.
const maxTokenBytes = 16 << 10

// digestShown is how many bytes of a token's digest its identity tells.
const digestShown = 6

// ofMetadata returns who has shown the token of an RPC. No token is no proof; a
// token of nobody is an error, also where a caller needs no proof.
func (a *Authenticator) ofMetadata(ctx context.Context, p *peer.Peer) (proof, error) {
	if !a.takesTokens() {
		return proof{}, nil
	}
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	switch {
	case len(values) == 0:
		return proof{}, nil
	case len(values) > 1:
		return proof{}, unknown("the metadata has several values of authorization; send one")
	case isInClear(p):
		return proof{}, unknown("the token came over a network without TLS, where others could read it; ask the operator for another one, and to set grpc.tls")
	}
	return a.ofAuthorization(ctx, values[0])
}

// isInClear tells that others may have read what this peer has sent. The
// configuration is refused that would let it be, but the listener that is open
// may be older.
func isInClear(p *peer.Peer) bool {
	tcp, ok := p.Addr.(*net.TCPAddr)
	if !ok || tcp.IP.IsLoopback() {
		return false
	}
	_, secured := handshake(p.AuthInfo).(credentials.TLSInfo)
	return !secured
}

func (a *Authenticator) ofAuthorization(ctx context.Context, value string) (proof, error) {
	token, err := bearer(value)
	if err != nil {
		return proof{}, err
	}
	digest := sha256.Sum256([]byte(token))
	// Whoever measures how long this takes learns of digests, not of tokens.
	if known := a.tokens[digest]; known != nil {
		return proof{of: known, identity: "sha256:" + hex.EncodeToString(digest[:digestShown])}, nil
	}
	if len(a.issuers) > 0 && strings.Count(token, ".") == 2 {
		known, ok := a.seen.find(digest, a.now())
		if !ok {
			good, err := a.ofJWT(ctx, token)
			if err != nil {
				return proof{}, err
			}
			a.seen.add(digest, good)
			known = good.proof
		}
		_, rest, _ := strings.Cut(token, ".")
		said, _, _ := strings.Cut(rest, ".")
		known.claims = fetch.Claims(said) // of this RPC's token: what is remembered of others has none
		return known, nil
	}
	return proof{}, unknown("the token is of no caller here; show a current one, or ask the operator for one")
}

// bearer returns the token of a value of authorization (RFC 6750 section 2.1).
func bearer(value string) (string, error) {
	scheme, token, found := strings.Cut(value, " ")
	token = strings.TrimLeft(token, " ")
	switch {
	case !found || !strings.EqualFold(scheme, "Bearer"):
		return "", unknown("authorization in the metadata is not of the form Bearer TOKEN; write it so")
	case len(token) > maxTokenBytes:
		return "", unknown("the token is longer than 16384 bytes; show a shorter one")
	case !isToken(token):
		return "", unknown("the token is empty, or has characters that tokens do not have; send it as it was issued")
	}
	return token, nil
}

// isToken tells whether a text is b64token of RFC 6750 section 2.1.
func isToken(s string) bool {
	s = strings.TrimRight(s, "=")
	for i := range len(s) {
		switch b := s[i]; {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9':
		case strings.IndexByte("-._~+/", b) >= 0:
		default:
			return false
		}
	}
	return s != ""
}
