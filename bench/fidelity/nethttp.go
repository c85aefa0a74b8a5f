package main

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// askNetHTTP makes the probes with net/http, used as closely to the wire as it
// can be: RoundTrip, header keys as they are, no decoding.
func askNetHTTP(ctx context.Context, probes []probe) (column, error) {
	upstreams, err := listenAll(probes)
	if err != nil {
		return nil, err
	}
	defer closeAll(upstreams)
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	seen := make(column, len(probes))
	for i, p := range probes {
		seen[i] = see(upstreams[i], roundTrip(ctx, transport, p, upstreams[i].authority()))
	}
	return seen, nil
}

func roundTrip(ctx context.Context, transport *http.Transport, p probe, authority string) reply {
	request := &http.Request{
		Method: p.method, URL: &url.URL{Scheme: "http", Host: authority, Opaque: p.target}, Host: authority,
		Header: http.Header{},
	}
	for _, f := range p.header(authority) {
		request.Header[f.Name] = append(request.Header[f.Name], string(f.Value))
	}
	switch {
	case p.streamed:
		request.Body, request.ContentLength = &pieces{left: slices.Clone(p.pieces)}, -1
	case p.pieces != nil && p.pieces[0] == "":
		request.Body = http.NoBody
	case p.pieces != nil:
		request.Body, request.ContentLength = io.NopCloser(strings.NewReader(p.pieces[0])), int64(len(p.pieces[0]))
	}
	response, err := transport.RoundTrip(request.WithContext(ctx))
	if err != nil {
		return reply{failure: err.Error()}
	}
	return readNetHTTP(response)
}

func readNetHTTP(response *http.Response) reply {
	defer response.Body.Close()
	_, reason, _ := strings.Cut(response.Status, " ")
	got := reply{head: &fetch.Head{Protocol: response.Proto, Status: response.StatusCode, Reason: []byte(reason)}}
	// A map has no order; the page needs one.
	for _, name := range slices.Sorted(maps.Keys(response.Header)) {
		for _, v := range response.Header[name] {
			got.head.Fields = append(got.head.Fields, fetch.Field{Name: name, Value: []byte(v)})
		}
	}
	body, err := io.ReadAll(response.Body)
	got.rest = string(body)
	if err != nil {
		got.failure = err.Error()
	}
	return got
}

// pieces is a request body that is read piece by piece.
type pieces struct{ left []string }

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.left) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.left[0])
	if n < len(p.left[0]) {
		return n, errors.New("a piece of the body does not fit into one read")
	}
	p.left = p.left[1:]
	return n, nil
}

func (p *pieces) Close() error { return nil }
