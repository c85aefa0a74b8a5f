package caller

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"

	"github.com/fetchgate/fetchgate/service/file"
)

const (
	// lookEvery is the least time between two looks at a file, but for a token
	// whose key is not known.
	lookEvery = time.Second
	// maxKeyFileBytes and maxKeys bound a file of keys.
	maxKeyFileBytes = 1 << 20
	maxKeys         = 1000
	// maxTries is the most keys of one ID that a signature is tried with.
	maxTries = 4
)

// The lengths of RSA keys that are used, in bits: shorter ones are weak, and
// longer ones cost a verifier too much.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// keySource has the keys of an issuer, which change while they are in use.
type keySource interface {
	// latest returns those that are in use; nil: there are none yet.
	latest() *keySet
	// find returns the public keys that a signature by the key of that ID may be
	// of, and the set that they are from, nil if there is none yet.
	find(ctx context.Context, id string, by jose.SignatureAlgorithm) ([]any, *keySet)
}

// keyFile is a JSON Web Key Set (RFC 7517 section 5) in a file, which is read
// again when it has changed.
type keyFile struct {
	name    string
	now     func() time.Time
	log     *slog.Logger
	current atomic.Pointer[keySet]

	looking sync.Mutex // held by whom looks at the file; guards what follows
	looked  time.Time
	// seen is the content that was tried last, good or not, about the file that it
	// is from, and wrong what was said of it.
	seen  []byte
	about fs.FileInfo
	wrong string
}

// newKeyFile reads a file; its error says what is wrong with it.
func newKeyFile(name string, now func() time.Time, log *slog.Logger) (*keyFile, error) {
	f := &keyFile{name: name, now: now, log: log, looked: now()}
	var err error
	if f.seen, f.about, err = readKeys(name); err != nil {
		return nil, fmt.Errorf("%q %w", name, err)
	}
	first, err := parseKeys(f.seen)
	if err != nil {
		return nil, fmt.Errorf("%q %w", name, err)
	}
	f.current.Store(first)
	return f, nil
}

// latest returns the keys, after a look at the file, at most once a second. While
// one RPC looks, the others go on with what there is.
func (f *keyFile) latest() *keySet {
	if f.looking.TryLock() {
		if f.now().Sub(f.looked) >= lookEvery {
			f.look()
		}
		f.looking.Unlock()
	}
	return f.current.Load()
}

// find returns the public keys that a signature by the key of that ID may be of,
// and the set that they are from. If there is none, the file is looked at at
// once: keys are changed so.
func (f *keyFile) find(_ context.Context, id string, by jose.SignatureAlgorithm) ([]any, *keySet) {
	of := f.latest()
	keys := of.find(id, by)
	if len(keys) == 0 {
		f.lookIfChanged()
		of = f.current.Load()
		keys = of.find(id, by)
	}
	return keys, of
}

// lookIfChanged spends little where the file is the same: whoever calls can show
// tokens with keys that nobody has.
func (f *keyFile) lookIfChanged() {
	f.looking.Lock()
	defer f.looking.Unlock()
	about, err := os.Stat(f.name)
	if err != nil || file.Unchanged(f.about, about) {
		return
	}
	f.look()
}

// look reads the file again. The content decides whether it has changed: a link
// to a directory can be swapped for one whose files are as old.
func (f *keyFile) look() {
	f.looked = f.now()
	content, about, err := readKeys(f.name)
	if about != nil {
		f.about = about
	}
	if err == nil && bytes.Equal(content, f.seen) {
		return
	}
	f.seen = content
	var next *keySet
	if err == nil {
		next, err = parseKeys(content)
	}
	if err != nil {
		if f.wrong != err.Error() {
			f.log.Error("the keys of an issuer have changed and cannot be used; the last good ones stay", "file", f.name, "err", err)
		}
		f.wrong = err.Error()
		return
	}
	f.wrong = ""
	f.current.Store(next)
	f.log.Info("the keys of an issuer have changed and are in use", "file", f.name, "keys", len(next.keys))
}

// readKeys returns what a file holds, and also with an error what is known about
// the file.
func readKeys(name string) ([]byte, fs.FileInfo, error) {
	content, about, err := file.Read(name, maxKeyFileBytes)
	switch {
	case err == nil:
		return content, about, nil
	case errors.Is(err, file.ErrNotRegular):
		err = errors.New("is not a regular file; name a JSON Web Key Set")
	case errors.Is(err, file.ErrTooLarge):
		err = errors.New("is larger than 1048576 bytes, the most that is read; leave out keys that are no longer used")
	default:
		err = fmt.Errorf("cannot be read: %w; check the permissions and the name, which starts at the directory of the configuration", file.Cause(err))
	}
	return nil, about, err
}

// keySet is what the content of a file became.
type keySet struct{ keys []jose.JSONWebKey }

// parseKeys takes the public keys for signatures out of a set. Keys that are not
// for that, or of a kind that is not used, are passed over (RFC 7517 section 5).
func parseKeys(content []byte) (*keySet, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(content, &set); err != nil {
		return nil, errors.New(`is no JSON Web Key Set; it looks like {"keys": [{"kty": "EC", …}]}`)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("has %d keys, more than %d; leave out those that are no longer used", len(set.Keys), maxKeys)
	}
	found, why := &keySet{}, "it has none at all"
	for n, raw := range set.Keys {
		key, err := parseKey(raw)
		switch {
		case errors.Is(err, errSecret):
			return nil, fmt.Errorf("holds a private or symmetric key, number %d; leave only public keys in it", n+1)
		case err != nil:
			why = fmt.Sprintf("number %d %v", n+1, err)
		default:
			found.keys = append(found.keys, key)
		}
	}
	if len(found.keys) == 0 {
		return nil, errors.New("has no key that can be used: " + why + "; it needs a public key of RSA, EC or Ed25519")
	}
	return found, nil
}

var errSecret = errors.New("is secret")

// parseKey reads a key. Its error tells nothing of the content.
func parseKey(raw []byte) (jose.JSONWebKey, error) {
	var members map[string]any
	if json.Unmarshal(raw, &members) != nil {
		return jose.JSONWebKey{}, errors.New("is no JSON Web Key")
	}
	for _, secret := range []string{"d", "k", "p", "q", "dp", "dq", "qi", "oth", "priv"} {
		if _, has := members[secret]; has {
			return jose.JSONWebKey{}, errSecret
		}
	}
	var key jose.JSONWebKey
	if err := key.UnmarshalJSON(raw); err != nil || !key.Valid() || !key.IsPublic() {
		return jose.JSONWebKey{}, errors.New("cannot be read, or is of a kind that is not known")
	}
	if key.Use != "" && key.Use != "sig" {
		return jose.JSONWebKey{}, errors.New("is not for signatures, by its use")
	}
	if strong, ok := key.Key.(*rsa.PublicKey); ok && (strong.N.BitLen() < minRSABits || strong.N.BitLen() > maxRSABits) {
		return jose.JSONWebKey{}, errors.New("is an RSA key of " + strconv.Itoa(strong.N.BitLen()) + " bits, not 2048 to 8192")
	}
	return key, nil
}

// find returns the keys with an ID that can make such signatures. Without an ID,
// there must be no choice. A nil set has none.
func (s *keySet) find(id string, by jose.SignatureAlgorithm) []any {
	var found []any
	if s == nil {
		return nil
	}
	for _, key := range s.keys {
		if (id == "" || key.KeyID == id) && suits(key, by) {
			found = append(found, key.Key)
		}
	}
	if id == "" && len(found) > 1 {
		return nil
	}
	return found[:min(len(found), maxTries)]
}

// suits tells whether a key makes such signatures: an algorithm goes with one
// kind of key, and with one alone if the key names it.
func suits(key jose.JSONWebKey, by jose.SignatureAlgorithm) bool {
	if key.Algorithm != "" && key.Algorithm != string(by) {
		return false
	}
	switch public := key.Key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(string(by), "RS") || strings.HasPrefix(string(by), "PS")
	case *ecdsa.PublicKey:
		return by == jose.ES256 && public.Curve == elliptic.P256() ||
			by == jose.ES384 && public.Curve == elliptic.P384() ||
			by == jose.ES512 && public.Curve == elliptic.P521()
	case ed25519.PublicKey:
		return by == jose.EdDSA
	}
	return false
}
