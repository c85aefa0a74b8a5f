package main

import (
	"cmp"
	"context"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/body"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// preview shows a request that is not sent.
type preview struct {
	service *connection
	out     io.Writer
	name    program
	typed   map[string]string // what the user typed for a part of the request, by its path
}

// show prints the request and, where the service answers, its decision.
func (p preview) show(ctx context.Context, request *fetchgatev1.FetchRequest) error {
	if path, err := p.request(request); err != nil {
		typed := p.typed[path]
		return &problem{exitRPC, "the service would refuse the request", typed + ": " + err.Error(), "mend " + typed}
	}
	return p.decision(ctx, request)
}

// request prints the request as it would go out, as far as that is known
// without the service. It prints nothing but an error and the path of the part
// that is wrong where the service is sure to refuse it.
func (p preview) request(r *fetchgatev1.FetchRequest) (path string, err error) {
	method := cmp.Or(r.GetRequest().GetMethod(), "GET")
	if err := fetch.CheckMethod(method); err != nil {
		return "request.method", err
	}
	to, err := fetch.ParseURL(r.GetRequest().GetUrl())
	if err != nil {
		return "request.url", err
	}
	if to, err = withRawTarget(to, r.GetRequest()); err != nil {
		return "request.raw_target", err
	}
	size := int64(0)
	if content := r.GetRequest().GetBody(); content != nil {
		encoded, err := body.Encode(content)
		if err != nil {
			return "request.body", err
		}
		size = encoded.Source.Length()
	}
	fmt.Fprintf(p.out, "%s %s\n", method, to.URL())
	for _, field := range wireFields(r, to.Origin) {
		fmt.Fprintf(p.out, "%s: %s\n", escaped(field.GetName()), shownValue(field))
	}
	if hasServiceAgent(r) {
		fmt.Fprintln(p.out, "(and the service's User-Agent)")
	}
	fmt.Fprintf(p.out, "\nnot sent; body %s\n", formatBytes(size))
	if to.Encoded {
		fmt.Fprintln(p.out, "illegal bytes of the URL were percent-encoded")
	}
	return "", nil
}

// withRawTarget is where a request goes whose path and query may be replaced.
func withRawTarget(to fetch.Destination, r *fetchgatev1.HttpRequest) (fetch.Destination, error) {
	if r.GetRawTarget() == "" {
		return to, nil
	}
	return to.WithRawTarget(r.GetRawTarget(), cmp.Or(r.GetMethod(), "GET"))
}

// decision prints what the service would do with the request. A service that
// cannot be reached, or is too old to say, is no error.
func (p preview) decision(ctx context.Context, r *fetchgatev1.FetchRequest) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	decision, err := p.service.policy.Explain(ctx, &fetchgatev1.ExplainRequest{Request: r.GetRequest(), Options: r.GetOptions()})
	switch reason, _ := errorInfo(status.Convert(err)); {
	case err == nil:
		printDecision(p.out, decision)
		return verdict(decision)
	case status.Code(err) == codes.Unavailable && reason == "", status.Code(err) == codes.DeadlineExceeded, status.Code(err) == codes.Unimplemented:
		problem := notExplained(p.service.problem(ctx, err, p.name), err)
		_, err := fmt.Fprintf(p.out, "policy was not asked: %s\n", problem.what)
		return err
	}
	return p.service.problem(ctx, err, p.name)
}
