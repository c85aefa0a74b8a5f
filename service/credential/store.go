package credential

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/file"
)

// Options are what a Store is made with.
type Options struct {
	// Bindings say where each credential of the list may go.
	Bindings []Binding
	// File completes the name of a file of the configuration; nil takes it as it
	// is.
	File func(name string) string
	// Previous is the store of the configuration before, whose secrets keep their
	// versions; nil means there is none.
	Previous *Store
	// Log takes what operators should know of secrets that change; nil discards
	// it.
	Log *slog.Logger
}

// Store has the credentials that the server holds, of one configuration. Its
// secrets change with their files. It is safe for concurrent use.
type Store struct{ named map[string]*held }

var _ fetch.Credentials = (*Store)(nil)

// SettingError says what is wrong with a setting. It shows no secret.
type SettingError struct {
	// Path is where it is: "credentials[2].bearer.token.file".
	Path    string
	Message string

	absent bool // the file is not there
}

func (e *SettingError) Error() string { return e.Path + ": " + e.Message }

// NewStore reads the secrets of a list that package config has checked. The
// error joins one *SettingError for each that cannot be used.
func NewStore(list []*configv1.HeldCredential, o Options) (*Store, error) {
	if o.File == nil {
		o.File = func(name string) string { return name }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{named: map[string]*held{}}
	var failed []error
	for i, m := range list {
		h := &held{name: m.GetName(), binding: o.Bindings[i], log: o.Log}
		path := fmt.Sprintf("credentials[%d].", i)
		if err := checkPlace(path, m); err != nil {
			failed = append(failed, err)
			continue
		}
		h.equip(path, m, o.File)
		var before *state
		if p := o.Previous; p != nil && p.named[h.name] != nil {
			before = p.named[h.name].state.Load()
		}
		loaded, err := h.load(before)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		h.state.Store(loaded)
		h.tellNext(before, loaded)
		h.looked.Store(time.Now().UnixNano())
		s.named[h.name] = h
	}
	if failed != nil {
		return nil, errors.Join(failed...)
	}
	return s, nil
}

// Named implements fetch.Credentials.
func (s *Store) Named(name string) fetch.Credential {
	if s == nil || s.named[name] == nil {
		return nil
	}
	return s.named[name]
}

// Awaited is a next_file that is not there.
type Awaited struct{ Credential, File string }

// Awaited returns the next_files that are not there, by the names of their
// credentials: all of them but for the time of a change, and then those whose name
// is wrong.
func (s *Store) Awaited() (list []Awaited) {
	if s == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(s.named)) {
		h := s.named[name]
		h.look(lookEvery)
		if h.state.Load().awaits {
			list = append(list, Awaited{name, h.nextFile})
		}
	}
	return list
}

// Refresh reads every secret again that comes from a file. What cannot be read
// any more stays as it was, and is told.
func (s *Store) Refresh() error {
	if s == nil {
		return nil
	}
	var failed []error
	for _, name := range slices.Sorted(maps.Keys(s.named)) {
		h := s.named[name]
		h.looked.Store(time.Now().UnixNano())
		failed = append(failed, h.refresh())
	}
	return errors.Join(failed...)
}

// checkPlace refuses what no credential can be sent in.
func checkPlace(path string, m *configv1.HeldCredential) error {
	var name string
	switch c := m.GetKind().(type) {
	case *configv1.HeldCredential_ApiKey:
		path += "api_key."
		if c.ApiKey.GetQueryParam() != "" {
			if c.ApiKey.GetPrefix() != "" {
				return atSetting(path+"prefix", "only a key in a header field has one; leave it out")
			}
			return nil
		}
		if _, isParam := c.ApiKey.GetPlace().(*configv1.HeldApiKey_QueryParam); isParam {
			return atSetting(path+"query_param", "it is empty; name the parameter")
		}
		name, path = c.ApiKey.GetHeader(), path+"header"
	case *configv1.HeldCredential_Header:
		name, path = c.Header.GetName(), path+"header.name"
	default:
		return nil
	}
	if err := CheckField(name); err != nil {
		return atSetting(path, "%v", err)
	}
	return nil
}

// equip has h make its proofs as m says.
func (h *held) equip(path string, m *configv1.HeldCredential, file func(string) string) {
	if c := m.GetClientCertificate(); c != nil {
		h.kind, h.place = certificateKind, fetch.CredentialPlace{Certificate: true}
		h.read[current] = func() (*proof, error) { return readCertificate(path+certificateKind, c, file) }
		return
	}
	k, field, at := secretOf(m)
	h.kind, h.place = k.name(), k.place()
	path += field
	if at.GetEnv() != "" {
		value, isSet := os.LookupEnv(at.GetEnv())
		h.read[current] = func() (*proof, error) {
			if !isSet {
				return nil, atSetting(path+".env", "the environment has no variable %q", at.GetEnv())
			}
			return made(k, path+".env", "the value of the variable", []byte(value))
		}
	} else {
		h.read[current] = func() (*proof, error) { return readProof(k, path+".file", file(at.GetFile())) }
	}
	if at.GetNextFile() != "" {
		h.nextFile = file(at.GetNextFile())
		h.read[next] = func() (*proof, error) {
			p, err := readProof(k, path+".next_file", h.nextFile)
			if isAbsent(err) {
				return nil, nil // nothing is being changed
			}
			return p, err
		}
	}
}

// KindOf returns what a held credential is, and what of a request it writes.
func KindOf(m *configv1.HeldCredential) (name string, place fetch.CredentialPlace) {
	if m.GetClientCertificate() != nil {
		return certificateKind, fetch.CredentialPlace{Certificate: true}
	}
	k, _, _ := secretOf(m)
	return k.name(), k.place()
}

// secretOf returns the kind of m, the path of its secret below it, and where
// the secret is read from; nil for a certificate, which has no secret.
func secretOf(m *configv1.HeldCredential) (k kind, field string, at *configv1.Secret) {
	switch c := m.GetKind().(type) {
	case *configv1.HeldCredential_Bearer:
		return bearer{}, "bearer.token", c.Bearer.GetToken()
	case *configv1.HeldCredential_Basic:
		return basic{[]byte(c.Basic.GetUsername())}, "basic.password", c.Basic.GetPassword()
	case *configv1.HeldCredential_ApiKey:
		return apiKey{c.ApiKey.GetHeader(), c.ApiKey.GetQueryParam(), c.ApiKey.GetPrefix()}, "api_key.key", c.ApiKey.GetKey()
	case *configv1.HeldCredential_Header:
		return header{c.Header.GetName(), c.Header.GetTemplate()}, "header.secret", c.Header.GetSecret()
	}
	return nil, "", nil
}

// isAbsent tells that a file is not there.
func isAbsent(err error) bool {
	failed, ok := errors.AsType[*SettingError](err)
	return ok && failed.absent
}

func atSetting(path, format string, args ...any) error {
	return &SettingError{Path: path, Message: fmt.Sprintf(format, args...)}
}

// readProof makes the proof of the secret in a file.
func readProof(k kind, path, file string) (*proof, error) {
	b, err := readFile(path, file)
	if err != nil {
		return nil, err
	}
	return made(k, path, fmt.Sprintf("%q", file), trimEnd(b))
}

// made is the proof of a secret that was read from what is called what.
func made(k kind, path, what string, b []byte) (*proof, error) {
	if err := checkSecret(b); err != nil {
		return nil, atSetting(path, "%s %v", what, err)
	}
	p, err := k.proof(NewSecret(b))
	if err != nil {
		return nil, atSetting(path, "%s %v", what, err)
	}
	return p, nil
}

func readCertificate(path string, c *configv1.HeldCertificate, file func(string) string) (*proof, error) {
	certificate, err := readFile(path+".cert_file", file(c.GetCertFile()))
	if err != nil {
		return nil, err
	}
	key, err := readFile(path+".key_file", file(c.GetKeyFile()))
	if err != nil {
		return nil, err
	}
	p, err := certificateOf(certificate, key)
	if err != nil {
		return nil, atSetting(path, "%v", err)
	}
	return p, nil
}

// maxFileBytes is the largest file that is read.
const maxFileBytes = 256 << 10

func readFile(path, name string) ([]byte, error) {
	b, _, err := file.Read(name, maxFileBytes)
	refused := func(why string) error { return atSetting(path, "%q %s", name, why) }
	switch {
	case err == nil:
		return b, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, &SettingError{path, fmt.Sprintf("%q is not there; the name starts at the directory of the configuration", name), true}
	case errors.Is(err, file.ErrNotRegular):
		return nil, refused("is not a regular file")
	case errors.Is(err, file.ErrTooLarge):
		return nil, refused(fmt.Sprintf("is larger than %d bytes", maxFileBytes))
	}
	return nil, refused("cannot be read: " + file.Cause(err).Error())
}
