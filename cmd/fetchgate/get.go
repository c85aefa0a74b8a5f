package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

// deadlineMargin is how much longer than --timeout the RPC may take: the answer
// that tells what took so long is worth more than the RPC's own deadline.
const deadlineMargin = 5 * time.Second

// maxRequestBody is the most that the contract lets a message carry.
const maxRequestBody = 3 << 20

type getCommand struct {
	URL string `arg:"" help:"The absolute http or https URL."`

	Address  string         `default:"${defaultAddress}" env:"FETCHGATE_ADDRESS" placeholder:"HOST:PORT" help:"The service to ask (default ${defaultAddress})."`
	Method   string         `name:"request" short:"X" type:"given" placeholder:"METHOD" help:"The method. Default GET, or POST with a body."`
	Headers  []string       `name:"header" short:"H" sep:"none" placeholder:"'NAME: VALUE'" help:"A header field; may be repeated."`
	Data     []string       `short:"d" sep:"none" xor:"body" placeholder:"DATA|@FILE|@-" help:"A body, sent byte for byte as application/x-www-form-urlencoded unless a Content-Type is given; repeated ones are joined with '&'."`
	JSON     *string        `name:"json" xor:"body" placeholder:"JSON|@FILE|@-" help:"A JSON body."`
	Output   string         `short:"o" type:"given" placeholder:"FILE" help:"Stream the body to FILE, which appears when it is whole."`
	Stream   bool           `help:"Stream the body; it may then be larger than 3 MiB."`
	Timeout  *time.Duration `placeholder:"DURATION" help:"How long the whole fetch may take, such as 10s."`
	NoDecode bool           `name:"no-decode" help:"Take the body as it is coded, and do not ask for a coding."`
	Fail     bool           `short:"f" help:"Exit with 22 and write no body when the status is 400 or more."`
	Report   bool           `help:"Print the head of the response and what was done to standard error."`
}

// Help is the end of the command's help.
func (getCommand) Help() string {
	return "The body goes to standard output, everything else to standard error. " +
		"A body that is not text is not written to a terminal (exit code 8).\n\n" +
		"With --fail, --report reads up to 1 MiB of a streamed body that is not written, for the report comes after it.\n\n" + exitCodesHelp
}

// Run performs the fetch.
func (c *getCommand) Run(ctx context.Context, s streams, name program) error {
	request, err := c.request(s.in)
	if err != nil {
		return &problem{exitUsage, "cannot send this request", err.Error(), fmt.Sprintf("%s get --help", name)}
	}
	if c.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *c.Timeout+deadlineMargin)
		defer cancel()
	}
	service, err := dial(c.Address)
	if err != nil {
		return &problem{exitUsage, "cannot use the address " + c.Address, err.Error(), "write it as HOST:PORT"}
	}
	defer service.Close()
	f := &fetcher{service: service, out: s.out, err: s.err, name: name, fail: c.Fail, report: c.Report, typed: c.typed()}
	if terminalWidth(s.out) != nil {
		f.out = &screen{terminal: s.out}
	}
	if c.Stream || c.Output != "" {
		return f.stream(ctx, request, c.Output)
	}
	return f.unary(ctx, request)
}

// request is what the flags ask for. What the server checks is left to it.
func (c *getCommand) request(stdin io.Reader) (*fetchgatev1.FetchRequest, error) {
	if c.Timeout != nil && *c.Timeout <= 0 {
		return nil, errors.New("--timeout must be more than 0")
	}
	headers, err := parseHeaders(c.Headers)
	if err != nil {
		return nil, err
	}
	request := &fetchgatev1.HttpRequest{Method: c.Method, Url: c.URL, Headers: headers}
	if err := c.addBody(request, stdin); err != nil {
		return nil, err
	}
	for _, text := range []string{c.URL, c.Method} {
		if !utf8.ValidString(text) {
			return nil, fmt.Errorf("%q is not UTF-8: percent-encode other bytes", text)
		}
	}
	options := &fetchgatev1.FetchOptions{}
	if c.Timeout != nil {
		options.Timeouts = &fetchgatev1.Timeouts{Total: durationpb.New(*c.Timeout)}
	}
	if c.Report {
		options.Report = fetchgatev1.ReportDetail_REPORT_DETAIL_FULL.Enum()
	}
	if c.NoDecode {
		options.Response = &fetchgatev1.ResponseOptions{Decode: new(bool)}
	}
	return &fetchgatev1.FetchRequest{Request: request, Options: options}, nil
}

// typed returns what the user typed for each part of the request that the
// service may find wrong, by the part's path.
func (c *getCommand) typed() map[string]string {
	typed := map[string]string{
		"request.url": "the URL", "request.method": "-X", "request.headers": "-H", "request.body": "-d",
		"request.body.json": "--json", "options.timeouts.total": "--timeout", "options.report": "--report",
	}
	if c.JSON != nil {
		typed["request.body"] = "--json"
	}
	for i, line := range c.Headers {
		name, _, _ := strings.Cut(line, ":")
		typed[fmt.Sprintf("request.headers[%d]", i)] = fmt.Sprintf("-H %+.64q", name)
	}
	return typed
}

func parseHeaders(lines []string) ([]*fetchgatev1.HeaderField, error) {
	var fields []*fetchgatev1.HeaderField
	for _, line := range lines {
		name, value, found := strings.Cut(line, ":")
		// The line is not shown: what is in it may be a secret.
		if !found {
			return nil, errors.New("a header field has no ':'; write it as 'Name: value'")
		}
		if !utf8.ValidString(name) {
			return nil, errors.New("the name of a header field is not a token")
		}
		fields = append(fields, &fetchgatev1.HeaderField{Name: name, Value: []byte(strings.Trim(value, " \t"))})
	}
	return fields, nil
}

// addBody gives the request the body of --data or --json, and the method and
// Content-Type that go with it.
func (c *getCommand) addBody(request *fetchgatev1.HttpRequest, stdin io.Reader) error {
	switch {
	case c.JSON != nil:
		text, err := readArgument(*c.JSON, stdin)
		if err != nil {
			return err
		}
		request.Body = &fetchgatev1.Body{Kind: &fetchgatev1.Body_Json{Json: text}}
	case c.Data != nil:
		var parts [][]byte
		for _, argument := range c.Data {
			part, err := readArgument(argument, stdin)
			if err != nil {
				return err
			}
			parts = append(parts, part)
		}
		request.Body = &fetchgatev1.Body{Kind: &fetchgatev1.Body_Raw{Raw: bytes.Join(parts, []byte("&"))}}
		if !hasField(request.GetHeaders(), "Content-Type") {
			request.Headers = append(request.Headers, &fetchgatev1.HeaderField{
				Name: "Content-Type", Value: []byte("application/x-www-form-urlencoded"),
			})
		}
	default:
		return nil
	}
	if request.GetMethod() == "" {
		request.Method = "POST"
	}
	return nil
}

// readArgument returns what an argument stands for: itself, the content of FILE
// for @FILE, standard input for @-. It reads no more than can be sent.
func readArgument(argument string, stdin io.Reader) ([]byte, error) {
	path, isFile := strings.CutPrefix(argument, "@")
	switch {
	case !isFile:
		return []byte(argument), nil
	case path != "-":
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		stdin = file
	}
	content, err := io.ReadAll(io.LimitReader(stdin, maxRequestBody+1))
	if len(content) > maxRequestBody {
		return nil, fmt.Errorf("the body is larger than %s, the most that can be sent", formatBytes(maxRequestBody))
	}
	return content, err
}

func hasField(fields []*fetchgatev1.HeaderField, name string) bool {
	return slices.ContainsFunc(fields, func(f *fetchgatev1.HeaderField) bool {
		return strings.EqualFold(f.GetName(), name)
	})
}
