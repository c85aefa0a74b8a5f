// Command naive is the service that fetchgate is compared with: the shortest
// one that speaks the same contract, with no policy, limit or timeout, on the
// defaults of grpc-go and net/http.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

// chunkBytes is how much of a stream one message carries: the size of the
// buffer that io.Copy takes.
const chunkBytes = 32 << 10

type naive struct {
	fetchgatev1.UnimplementedFetchServiceServer
	client *http.Client
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprintf(os.Stderr, "gRPC %s\n", listener.Addr())
	server := grpc.NewServer()
	fetchgatev1.RegisterFetchServiceServer(server, &naive{client: &http.Client{Transport: http.DefaultTransport}})
	log.Fatal(server.Serve(listener))
}

// Fetch reads the whole body into memory and answers with a copy of it.
func (n *naive) Fetch(ctx context.Context, r *fetchgatev1.FetchRequest) (*fetchgatev1.FetchResponse, error) {
	response, err := n.ask(ctx, r.GetRequest())
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &fetchgatev1.FetchResponse{
		Report:  report(int64(len(body))),
		Outcome: &fetchgatev1.FetchResponse_Response{Response: &fetchgatev1.HttpResponse{Head: head(response), Body: body}},
	}, nil
}

// StreamFetch sends what each read gives, in a new slice for each message.
func (n *naive) StreamFetch(r *fetchgatev1.StreamFetchRequest, stream grpc.ServerStreamingServer[fetchgatev1.StreamFetchResponse]) error {
	response, err := n.ask(stream.Context(), r.GetRequest())
	if err != nil {
		return err
	}
	defer response.Body.Close()
	err = stream.Send(&fetchgatev1.StreamFetchResponse{Event: &fetchgatev1.StreamFetchResponse_Head{Head: head(response)}})
	var offset int64
	for err == nil {
		chunk := make([]byte, chunkBytes)
		count, readErr := response.Body.Read(chunk)
		if count > 0 {
			data := &fetchgatev1.Data{OffsetBytes: offset, Data: chunk[:count]}
			err = stream.Send(&fetchgatev1.StreamFetchResponse{Event: &fetchgatev1.StreamFetchResponse_Data{Data: data}})
			offset += int64(count)
		}
		if err == nil && readErr == io.EOF {
			summary := &fetchgatev1.StreamSummary{Report: report(offset), BodyBytes: offset}
			return stream.Send(&fetchgatev1.StreamFetchResponse{Event: &fetchgatev1.StreamFetchResponse_Summary{Summary: summary}})
		}
		if readErr != nil {
			return status.Error(codes.Unavailable, readErr.Error())
		}
	}
	return err
}

func (n *naive) ask(ctx context.Context, r *fetchgatev1.HttpRequest) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, r.GetMethod(), r.GetUrl(), nil)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	response, err := n.client.Do(request)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return response, nil
}

func head(r *http.Response) *fetchgatev1.HttpHead {
	h := &fetchgatev1.HttpHead{Protocol: r.Proto, Status: int32(r.StatusCode), Url: r.Request.URL.String()}
	for name, values := range r.Header {
		for _, value := range values {
			h.Headers = append(h.Headers, &fetchgatev1.HeaderField{Name: name, Value: []byte(value)})
		}
	}
	return h
}

func report(bodyBytes int64) *fetchgatev1.FetchReport {
	return &fetchgatev1.FetchReport{AttemptCount: 1, HopCount: 1, WireBytes: bodyBytes, BodyBytes: bodyBytes}
}
