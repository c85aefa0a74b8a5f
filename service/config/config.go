// Package config loads and validates the configuration.
//
// A file passes five checks, each only if the one before found nothing: its
// text, its YAML tree, the shape of the tree beside the schema
// (fetchgate.config.v1), the ranges that the schema states, and what no schema
// can state. Every finding is a [Problem] with its line, its column and its
// setting. The result is one immutable value, [Loaded].
package config

import (
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"errors"
	"fmt"

	"buf.build/go/protoyaml"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/file"
)

// maxFileBytes is the largest configuration, or certificate file, that is read.
const maxFileBytes = 1 << 20

// builtIn is the source of the configuration that is in force without a file.
const builtIn = "built-in"

//go:embed default.yaml
var defaultYAML []byte

// Loaded is a configuration that passed every check. It is immutable and safe
// for concurrent use.
type Loaded struct {
	// Config is the configuration as written, defaults not filled in: read what
	// has a default through the methods of Loaded. It must not be modified.
	Config *configv1.Config
	// Source is the name of the file, or "built-in".
	Source string
	// Digest is the SHA-256 of the file's bytes in hexadecimal.
	Digest string
	// Generation numbers the configurations that a process has had, from 1.
	Generation int64

	places      places
	authorities []*x509.Certificate
	// lists are those of grpc.tls.client_crl_file that were found in order.
	lists checkedLists
	// profileAuthorities are those of each of tls_profiles.
	profileAuthorities [][]*x509.Certificate
	// fromFile tells that Source is a file, openEnded that its last line does not
	// end.
	fromFile, openEnded bool
}

// Load reads and checks the configuration file at path, at most 1 MiB of YAML.
// Its error is an [*Error].
func Load(path string) (*Loaded, error) {
	l, err := Examine(path)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Examine is Load for who wants to know all that is wrong: a file whose mistakes
// only the last of the checks finds is returned beside the error, to be looked at
// and never to be served.
func Examine(path string) (*Loaded, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	l, err := examine(path, text, checkedLists{})
	if l != nil {
		l.fromFile, l.openEnded = true, isOpenEnded(text)
	}
	return l, err
}

func unreadable(path string, err error) error {
	return newError(path, []Problem{{
		Message: fmt.Sprintf("cannot be read: %v; check --config and the permissions of the file", err),
	}})
}

// Parse checks a configuration that is already in memory. Problems call it
// name, and the files it names are relative to name's directory. Its error is
// an [*Error].
func Parse(name string, text []byte) (*Loaded, error) {
	return parse(name, text, checkedLists{})
}

// parse is Parse after lists were found in order.
func parse(name string, text []byte, lists checkedLists) (*Loaded, error) {
	l, err := examine(name, text, lists)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// examine is parse that returns what it read beside the error if all values are
// in their ranges.
func examine(name string, text []byte, lists checkedLists) (*Loaded, error) {
	root, problem := readTree(text)
	if problem != nil {
		return nil, newError(name, []Problem{*problem})
	}
	at, problems := readShape(root)
	if problems != nil {
		return nil, newError(name, problems)
	}
	l := &Loaded{
		Config:     &configv1.Config{},
		Source:     name,
		Digest:     fmt.Sprintf("%x", sha256.Sum256(text)),
		Generation: 1,
		places:     at,
		lists:      lists,
	}
	if err := protoyaml.Unmarshal(text, l.Config); err != nil {
		return nil, newError(name, []Problem{unforeseen(err)})
	}
	if problems := checkRanges(l.Config, at); problems != nil {
		return nil, newError(name, problems)
	}
	if problems := l.check(); problems != nil {
		return l, newError(name, problems)
	}
	return l, nil
}

// Refuse returns an error for what others find wrong with settings, each by its
// path, such as "rules[2].origins[0]".
func (l *Loaded) Refuse(wrong []Problem) *Error {
	var problems []Problem
	for _, p := range wrong {
		problems = append(problems, l.places.find(p.Path).problem(p.Path, p.Message))
	}
	return newError(l.Source, problems)
}

// Default returns the configuration that is in force without a file: listeners
// on loopback, no callers, no rules.
func Default() *Loaded {
	l, err := Parse(builtIn, defaultYAML)
	if err != nil {
		panic(err) // the file is part of the binary
	}
	return l
}

// Locate returns where a setting such as "rules[2].origins[0]" is written, as
// "fetchgate.yaml:12:5". For a setting that is not written it is the nearest
// one around it that is.
func (l *Loaded) Locate(path string) string {
	p := l.places.find(path)
	return fmt.Sprintf("%s:%d:%d", l.Source, p.line, p.column)
}

// unforeseen is a problem that the decoder finds although the tree and the
// shape were in order.
func unforeseen(err error) Problem {
	return Problem{Message: fmt.Sprintf("cannot be decoded: %v; please report it together with the file", err)}
}

// readFile reads one byte more than may be there, for the check to see it.
func readFile(path string) ([]byte, error) {
	text, _, err := file.Read(path, maxFileBytes)
	if errors.Is(err, file.ErrTooLarge) {
		err = nil
	}
	return text, file.Cause(err)
}
