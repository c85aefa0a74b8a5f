package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/dial"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/transport"
)

// askFetchgate makes the probes with a fetchgate on loopback, over gRPC; but
// one that streams a body, which no RPC that is offered does yet, it makes at
// the transport's seam.
func askFetchgate(ctx context.Context, probes []probe) (seen column, err error) {
	upstreams, err := listenAll(probes)
	if err != nil {
		return nil, err
	}
	defer closeAll(upstreams)
	ctx, stop := context.WithCancel(ctx)
	var serving errgroup.Group
	defer func() {
		stop()
		err = errors.Join(err, serving.Wait())
	}()
	served, err := start(upstreams)
	if err != nil {
		return nil, err
	}
	serving.Go(func() error { return served.Serve(ctx) })
	conn, err := grpc.NewClient(served.GRPCAddress(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	client := fetchgatev1.NewFetchServiceClient(conn)
	seen = make(column, len(probes))
	for i, p := range probes {
		ask := askStream
		if p.streamed {
			ask = askSeam
		}
		seen[i] = see(upstreams[i], ask(ctx, client, p, upstreams[i].authority()))
	}
	return seen, nil
}

// start returns a fetchgate that may reach the upstreams.
func start(upstreams []*upstream) (*service.Service, error) {
	var b strings.Builder
	b.WriteString("rules:\n  - name: probes\n    dangerous_allow_loopback: true\n    origins:\n")
	for _, u := range upstreams {
		fmt.Fprintf(&b, "      - %q\n", "http://"+u.authority())
	}
	loaded, err := config.Parse("fidelity.yaml", []byte(b.String()))
	if err != nil {
		return nil, err
	}
	return service.New(service.Options{Config: loaded, GRPCAddress: "127.0.0.1:0", HTTPAddress: "127.0.0.1:0", Stdout: io.Discard})
}

// askStream makes a probe as an adapter does that stands in for a library's own
// transport.
func askStream(ctx context.Context, client fetchgatev1.FetchServiceClient, p probe, authority string) reply {
	request := &fetchgatev1.HttpRequest{Method: p.method, Url: "http://" + authority, RawTarget: p.target}
	for _, f := range p.header(authority) {
		request.Headers = append(request.Headers, &fetchgatev1.HeaderField{Name: f.Name, Value: f.Value})
	}
	if p.pieces != nil {
		request.Body = &fetchgatev1.Body{Kind: &fetchgatev1.Body_Raw{Raw: []byte(p.pieces[0])}}
	}
	stream, err := client.StreamFetch(ctx, &fetchgatev1.StreamFetchRequest{Request: request, Options: verbatim()})
	if err != nil {
		return refused(err)
	}
	var got reply
	for {
		event, err := stream.Recv()
		switch {
		case err == io.EOF:
			return got
		case err != nil:
			return refused(err)
		}
		got.add(event)
	}
}

func verbatim() *fetchgatev1.FetchOptions {
	yes, version := true, fetchgatev1.HttpVersion_HTTP_VERSION_1_1
	return &fetchgatev1.FetchOptions{
		Verbatim: &yes,
		Protocol: &fetchgatev1.ProtocolOptions{Version: &version},
		Response: &fetchgatev1.ResponseOptions{ChunkBoundaries: &yes},
	}
}

func refused(err error) reply {
	s := status.Convert(err)
	return reply{failure: fmt.Sprintf("RPC error %v: %s", s.Code(), s.Message())}
}

func (r *reply) add(event *fetchgatev1.StreamFetchResponse) {
	switch e := event.GetEvent().(type) {
	case *fetchgatev1.StreamFetchResponse_Head:
		r.head = &fetch.Head{Protocol: e.Head.GetProtocol(), Status: int(e.Head.GetStatus()), Reason: e.Head.GetReason()}
		for _, f := range e.Head.GetHeaders() {
			r.head.Fields = append(r.head.Fields, fetch.Field{Name: f.GetName(), Value: f.GetValue()})
		}
	case *fetchgatev1.StreamFetchResponse_Data:
		r.addBody(e.Data.GetData(), e.Data.GetEndOfHttpChunk())
	case *fetchgatev1.StreamFetchResponse_Summary:
		if f := e.Summary.GetFailure(); f != nil {
			r.failure = strings.TrimPrefix(f.GetReason().String(), "FAILURE_REASON_")
		}
	}
}

func (r *reply) addBody(b []byte, endOfChunk bool) {
	r.rest += string(b)
	if endOfChunk {
		r.chunks, r.rest = append(r.chunks, r.rest), ""
	}
}

// askSeam makes a probe with the transport alone, as the engine would.
func askSeam(ctx context.Context, _ fetchgatev1.FetchServiceClient, p probe, authority string) (got reply) {
	limits := fetch.DefaultLimits()
	t := transport.New(transport.Options{Dialer: dial.New(dial.Options{}), Limits: limits})
	defer t.Close(ctx)
	address, err := netip.ParseAddrPort(authority)
	if err != nil {
		return reply{failure: err.Error()}
	}
	origin := fetch.Origin{Scheme: "http", Host: address.Addr().String(), Port: address.Port()}
	route := fetch.Route{Version: fetch.HTTP1, MaxDials: 1, Allow: func(netip.AddrPort) error { return nil }}
	response, _, err := t.RoundTrip(ctx, &fetch.Request{
		Method: p.method, Scheme: origin.Scheme, Host: origin.Host, Port: origin.Port, Target: []byte(p.target),
		Fields: p.header(authority), Verbatim: true,
		Framing: fetch.FramingChunked, Body: &pieces{left: slices.Clone(p.pieces)},
		Route: route.Sealed(origin), Timeouts: limits.Timeouts, KeepChunks: true,
	})
	if err != nil {
		return reply{failure: err.Error()}
	}
	defer response.Body.Close()
	got.head = &response.Head
	buffer := make([]byte, 4<<10)
	for err == nil {
		var b []byte
		var endOfChunk bool
		b, endOfChunk, err = response.Body.ReadChunk(func() []byte { return buffer })
		got.addBody(b, endOfChunk)
	}
	if err != io.EOF {
		got.failure = err.Error()
	}
	return got
}
