package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

// maxRequestBody is the most that the contract lets a message carry.
const maxRequestBody = 3 << 20

// request is what the flags ask for. What the server checks is left to it.
func (c *getCommand) request(stdin io.Reader) (*fetchgatev1.FetchRequest, error) {
	asked, err := c.requestFlags.request(stdin)
	if err != nil {
		return nil, err
	}
	if c.wantsReport() {
		asked.Options.Report = fetchgatev1.ReportDetail_REPORT_DETAIL_FULL.Enum()
	}
	if c.JSON == nil {
		return asked, nil
	}
	text, err := readArgument("--json", *c.JSON, stdin)
	if err != nil {
		return nil, err
	}
	asked.Request.Body = &fetchgatev1.Body{Kind: &fetchgatev1.Body_Json{Json: text}}
	asked.Request.Method = cmp.Or(asked.Request.Method, "POST")
	return asked, nil
}

// request is what the flags ask for that explain has too.
func (c *requestFlags) request(stdin io.Reader) (*fetchgatev1.FetchRequest, error) {
	options, err := c.options()
	if err != nil {
		return nil, err
	}
	if options.Credentials, err = c.credentials(); err != nil {
		return nil, err
	}
	request, err := c.head()
	if err != nil {
		return nil, err
	}
	if err := c.addFields(request); err != nil {
		return nil, err
	}
	if err := c.addBody(request, stdin); err != nil {
		return nil, err
	}
	if c.hasFormData() && !c.Verbatim && !hasField(request.GetHeaders(), "Content-Type") {
		request.Headers = append(request.Headers, &fetchgatev1.HeaderField{
			Name: "Content-Type", Value: []byte("application/x-www-form-urlencoded"),
		})
	}
	return &fetchgatev1.FetchRequest{Request: request, Options: options}, nil
}

// wantsReport tells whether the attempts and hops are wanted.
func (c *answerFlags) wantsReport() bool { return c.Report != "" || c.Verbose }

// head is the request line and the fields of --header.
func (c *headFlags) head() (*fetchgatev1.HttpRequest, error) {
	headers, err := parseHeaders(c.Headers)
	if err != nil {
		return nil, err
	}
	for _, text := range []string{c.URL, c.Method, c.Target} {
		if !utf8.ValidString(text) {
			return nil, fmt.Errorf("%q is not UTF-8: percent-encode other bytes", text)
		}
	}
	return &fetchgatev1.HttpRequest{Method: c.Method, Url: c.URL, RawTarget: c.Target, Headers: headers}, nil
}

// options are those that the flags ask for. What no flag asks for is not set.
func (c *optionFlags) options() (*fetchgatev1.FetchOptions, error) {
	switch {
	case c.Timeout != nil && *c.Timeout <= 0:
		return nil, errors.New("--timeout must be more than 0")
	case c.Retry != nil && (*c.Retry < 0 || *c.Retry == math.MaxInt32):
		return nil, errors.New("--retry is how many times to try again, 0 or more")
	case c.RetryDelay != nil && *c.RetryDelay <= 0:
		return nil, errors.New("--retry-delay must be more than 0; leave it out for a short, random wait that grows")
	case c.ExpectWait != nil && *c.ExpectWait <= 0:
		return nil, errors.New("--expect100-timeout must be more than 0")
	case c.MaxRedirs != nil && *c.MaxRedirs < 0:
		return nil, errors.New("--max-redirs must be 0 or more: redirects without an end are not offered, the most is 30")
	}
	options := &fetchgatev1.FetchOptions{Retry: c.retryPolicy()}
	if c.Verbatim {
		options.Verbatim = proto.Bool(true)
	}
	if c.Expect100 || c.ExpectWait != nil {
		options.Protocol = &fetchgatev1.ProtocolOptions{ExpectContinue: proto.Bool(true)}
	}
	if c.ExpectWait != nil {
		options.Protocol.ContinueTimeout = durationpb.New(*c.ExpectWait)
	}
	if c.Timeout != nil || c.SpeedLimit != nil {
		options.Timeouts = &fetchgatev1.Timeouts{MinThroughputBytesPerSecond: c.SpeedLimit}
		if c.Timeout != nil {
			options.Timeouts.Total = durationpb.New(*c.Timeout)
		}
	}
	switch {
	case c.NoFollow:
		options.Redirect = &fetchgatev1.RedirectPolicy{MaxRedirects: proto.Int32(0)}
	case c.MaxRedirs != nil:
		options.Redirect = &fetchgatev1.RedirectPolicy{MaxRedirects: c.MaxRedirs}
	}
	if c.NoDecode || c.MaxFilesize != nil {
		options.Response = &fetchgatev1.ResponseOptions{MaxBodyBytes: c.MaxFilesize}
		if c.NoDecode {
			options.Response.Decode = proto.Bool(false)
		}
	}
	return options, nil
}

// retryPolicy counts retries as curl does, without the first attempt. A fixed
// wait is one that neither grows nor is random.
func (c *optionFlags) retryPolicy() *fetchgatev1.RetryPolicy {
	if c.Retry == nil && c.RetryDelay == nil {
		return nil
	}
	policy := &fetchgatev1.RetryPolicy{}
	if c.Retry != nil {
		policy.MaxAttempts = proto.Int32(*c.Retry + 1)
	}
	if c.RetryDelay != nil {
		policy.BackoffBase, policy.BackoffMax = durationpb.New(*c.RetryDelay), durationpb.New(*c.RetryDelay)
		policy.BackoffFactor, policy.BackoffJitter = proto.Float64(1), proto.Float64(0)
	}
	return policy
}

// typed returns what the user typed for each part of the request that the
// service may find wrong, by the part's path.
func (c *getCommand) typed() map[string]string {
	typed := map[string]string{
		"request.url": "the URL", "request.method": "-X", "request.headers": "-H", "request.body": "-d",
		"request.body.json": "--json", "options.timeouts.total": "--timeout", "options.report": "--report",
	}
	for path, flag := range optionOfFlag {
		typed[path] = flag
	}
	if c.JSON != nil {
		typed["request.body"] = "--json"
	}
	if c.NoFollow {
		typed["options.redirect.max_redirects"] = "--no-follow"
	}
	if c.Report == "" && c.Verbose {
		typed["options.report"] = "--verbose"
	}
	for path, flag := range c.typedCredentials() {
		typed[path] = flag
	}
	for i, line := range c.Headers {
		name, _, _ := strings.Cut(line, ":")
		typed[fmt.Sprintf("request.headers[%d]", i)] = fmt.Sprintf("-H %+.64q", name)
	}
	for i := range c.cookies() {
		for _, part := range []string{"", ".name", ".value"} {
			typed[fmt.Sprintf("request.cookies[%d]%s", i, part)] = fmt.Sprintf("-b (cookie %d)", i+1)
		}
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

// addFields gives the request the fields and cookies that have flags of their
// own. A field of --header goes before such a flag.
func (c *fieldFlags) addFields(request *fetchgatev1.HttpRequest) error {
	for _, field := range []struct {
		name  string
		value *string
	}{{"User-Agent", c.UserAgent}, {"Referer", c.Referer}} {
		if field.value != nil && *field.value != "" && !hasField(request.GetHeaders(), field.name) {
			request.Headers = append(request.Headers, &fetchgatev1.HeaderField{Name: field.name, Value: []byte(*field.value)})
		}
	}
	if c.UserAgent != nil && *c.UserAgent == "" {
		request.OmitDefaultFields = []string{"user-agent"}
	}
	for _, pair := range c.cookies() {
		name, value, found := strings.Cut(pair, "=")
		if !found {
			return errors.New("a cookie of -b has no '='; write it as NAME=VALUE (files of cookies are not read)")
		}
		request.Cookies = append(request.Cookies, &fetchgatev1.Cookie{Name: []byte(name), Value: []byte(value)})
	}
	return nil
}

// cookies are the pairs of --cookie.
func (c *fieldFlags) cookies() []string {
	var pairs []string
	for pair := range strings.SplitSeq(strings.Join(c.Cookies, ";"), ";") {
		if pair = strings.Trim(pair, " \t"); pair != "" {
			pairs = append(pairs, pair)
		}
	}
	return pairs
}

// hasFormData tells that the body is that of --data, which is a form's unless a
// field says otherwise.
func (c *bodyFlags) hasFormData() bool { return c.Data != nil }

// addBody gives the request the body that the flags name, and the method that
// goes with it.
func (c *bodyFlags) addBody(request *fetchgatev1.HttpRequest, stdin io.Reader) error {
	method := "POST"
	switch {
	case c.Head:
		method = "HEAD"
	case c.Data != nil:
		data, err := joinArguments(c.Data, stdin)
		if err != nil {
			return err
		}
		request.Body = &fetchgatev1.Body{Kind: &fetchgatev1.Body_Raw{Raw: data}}
	case c.DataEncode != nil:
		form, err := formOf(c.DataEncode)
		if err != nil {
			return err
		}
		request.Body = &fetchgatev1.Body{Kind: &fetchgatev1.Body_Form{Form: form}}
	default:
		return nil
	}
	if request.GetMethod() == "" {
		request.Method = method
	}
	return nil
}

// formOf is the form of --data-urlencode.
func formOf(pairs []string) (*fetchgatev1.FormBody, error) {
	form := &fetchgatev1.FormBody{}
	for _, pair := range pairs {
		name, value, found := strings.Cut(pair, "=")
		switch {
		case !found || name == "":
			return nil, errors.New("a field of --data-urlencode is NAME=VALUE; for other bodies use -d")
		case !utf8.ValidString(pair):
			return nil, errors.New("a field of --data-urlencode is not UTF-8; encode it yourself and use -d")
		}
		form.Fields = append(form.Fields, &fetchgatev1.QueryParam{Name: name, Value: value})
	}
	return form, nil
}

func joinArguments(arguments []string, stdin io.Reader) ([]byte, error) {
	var parts [][]byte
	for _, argument := range arguments {
		part, err := readArgument("-d", argument, stdin)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
	return bytes.Join(parts, []byte("&")), nil
}

// readArgument returns what the argument of a flag stands for: itself, the content of FILE
// for @FILE, standard input for @-. It reads no more than can be sent.
func readArgument(flag, argument string, stdin io.Reader) ([]byte, error) {
	path, isFile := strings.CutPrefix(argument, "@")
	switch {
	case !isFile:
		return []byte(argument), nil
	case path != "-":
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("%s @%s: %w", flag, path, bare(err))
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
