package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fetchgate/fetchgate/service/iana"
)

// maxFile is the most that one fetched file may have, in bytes. The registries
// have 3 KiB as CSV and 20 KiB as XML.
const maxFile = 1 << 20

// registry is one of IANA's registries.
type registry struct {
	name string       // in its URLs and file names
	must netip.Prefix // a block it always has, and never calls globally reachable
}

// edition is a registry as IANA has it now.
type edition struct {
	registry
	csv     []byte    // as served
	updated time.Time // when IANA last changed the registry, a date
}

// The CSV has no date, so that comes from the XML form of the same registry.
func (r registry) csvFile() string        { return r.name + "-1.csv" }
func (r registry) csvURL(b string) string { return b + r.name + "/" + r.csvFile() }
func (r registry) xmlURL(b string) string { return b + r.name + "/" + r.name + ".xml" }

// newClient returns a client that takes a redirect for what it is here, a sign
// that IANA moved the registries, and not for a place to go on with.
func newClient() *http.Client {
	return &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
}

// renew fetches the registries below base, a URL that ends in a slash, and
// writes them and their SOURCE into folder.
func renew(ctx context.Context, client *http.Client, base, folder string) error {
	var editions []edition
	for _, r := range registries {
		e, err := fetch(ctx, client, base, r)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		editions = append(editions, e)
	}
	for _, e := range editions {
		if err := replace(filepath.Join(folder, e.csvFile()), e.csv); err != nil {
			return err
		}
	}
	return replace(filepath.Join(folder, "SOURCE"), source(editions))
}

func fetch(ctx context.Context, client *http.Client, base string, r registry) (edition, error) {
	text, err := get(ctx, client, r.csvURL(base))
	if err != nil {
		return edition{}, err
	}
	if err := check(text, r.must); err != nil {
		return edition{}, fmt.Errorf("%s: %w", r.csvURL(base), err)
	}
	form, err := get(ctx, client, r.xmlURL(base))
	if err != nil {
		return edition{}, err
	}
	updated, err := lastUpdated(form)
	if err != nil {
		return edition{}, fmt.Errorf("%s: %w", r.xmlURL(base), err)
	}
	return edition{registry: r, csv: text, updated: updated}, nil
}

func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: status %s", url, response.Status)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	if len(body) > maxFile {
		return nil, fmt.Errorf("%s: more than %d bytes", url, maxFile)
	}
	return body, nil
}

// check tells whether text is the registry of the family of must: package iana
// can read it, every block is of that family, and must is in it.
func check(text []byte, must netip.Prefix) error {
	blocks, err := iana.ReadRegistry(bytes.NewReader(text))
	if err != nil {
		return err
	}
	for _, b := range blocks {
		if b.Prefix.Addr().BitLen() != must.Addr().BitLen() {
			return fmt.Errorf("%v is of the other address family", b.Prefix)
		}
	}
	i := slices.IndexFunc(blocks, func(b iana.Block) bool { return b.Prefix == must })
	if i < 0 || blocks[i].Global {
		return fmt.Errorf("does not list %v as not globally reachable; the file is cut or is something else", must)
	}
	return nil
}

// lastUpdated reads the date of the last change out of a registry's XML form.
func lastUpdated(text []byte) (time.Time, error) {
	var form struct {
		XMLName xml.Name `xml:"registry"`
		Updated string   `xml:"updated"`
	}
	if err := xml.Unmarshal(text, &form); err != nil {
		return time.Time{}, fmt.Errorf("date of the last update: %w", err)
	}
	updated, err := time.Parse(time.DateOnly, form.Updated)
	if err != nil {
		return time.Time{}, fmt.Errorf("date of the last update: %w", err)
	}
	return updated, nil
}

// source is the text of the file SOURCE. It has no date of its own, so that it
// changes only when a registry does.
func source(editions []edition) []byte {
	var b strings.Builder
	b.WriteString("The special-purpose address registries of IANA (RFC 6890, RFC 8190), which are in\n" +
		"the public domain (CC0 1.0, https://www.iana.org/help/licensing-terms).\n")
	for _, e := range editions {
		fmt.Fprintf(&b, "\n%s\n  source:       %s\n  last updated: %s\n  sha256:       %x\n",
			e.csvFile(), e.csvURL(assignments), e.updated.Format(time.DateOnly), sha256.Sum256(e.csv))
	}
	b.WriteString("\nRenew with `make iana`; do not edit by hand. metadata.csv is our own and names the\n" +
		"source of each row.\n")
	return []byte(b.String())
}

// replace writes a file whole or not at all.
func replace(path string, content []byte) error {
	fresh := path + ".new"
	if err := os.WriteFile(fresh, content, 0o644); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}
