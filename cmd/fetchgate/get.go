package main

import (
	"context"
	"fmt"
	"io"
	"time"
)

// deadlineMargin is how much longer than --timeout the RPC may take: the answer
// that tells what took so long is worth more than the RPC's own deadline.
const deadlineMargin = 5 * time.Second

type getCommand struct {
	requestFlags
	answerFlags
	serviceFlags

	JSON    *string `name:"json" xor:"body" group:"The request" placeholder:"JSON|@FILE|@-" help:"A JSON body."`
	Offline bool    `help:"Send nothing to the upstream: print the request as it would go out and, where the service answers, what policy decides about it and which limits would hold."`
}

// requestFlags are those of a request and of how it is carried out, which explain
// has too.
type requestFlags struct {
	headFlags
	fieldFlags
	bodyFlags
	credentialFlags
	optionFlags
}

// headFlags are the URL, the method and the fields of a request.
type headFlags struct {
	URL string `arg:"" help:"The absolute http or https URL."`

	Method  string   `name:"request" short:"X" type:"given" group:"The request" placeholder:"METHOD" help:"The method. Default GET, or POST with a body."`
	Headers []string `name:"header" short:"H" sep:"none" group:"The request" placeholder:"'NAME: VALUE'" help:"A header field; may be repeated."`
	Target  string   `name:"request-target" type:"given" group:"The request" placeholder:"TARGET" help:"Send this, byte for byte, instead of the URL's path and query; policy decides by it."`
}

// fieldFlags are fields with flags of their own.
type fieldFlags struct {
	UserAgent *string  `name:"user-agent" short:"A" group:"The request" placeholder:"NAME" help:"The User-Agent field; an empty one sends none."`
	Referer   *string  `name:"referer" short:"e" group:"The request" placeholder:"URL" help:"The Referer field."`
	Cookies   []string `name:"cookie" short:"b" sep:"none" group:"The request" placeholder:"'NAME=VALUE'" help:"A cookie for the URL's host; several are separated by ';' or repeated."`
}

// bodyFlags are the body, but for that of --json, which is the form of the output
// of explain.
type bodyFlags struct {
	Data       []string `short:"d" sep:"none" xor:"body" group:"The request" placeholder:"DATA|@FILE|@-" help:"A body, sent byte for byte as application/x-www-form-urlencoded unless a Content-Type is given; repeated ones are joined with '&'."`
	DataEncode []string `name:"data-urlencode" sep:"none" xor:"body" group:"The request" placeholder:"NAME=VALUE" help:"A field of a form, which is encoded; may be repeated."`
	Head       bool     `name:"head" short:"I" xor:"body" group:"The request" help:"Ask with HEAD and print the head of the response."`
}

// optionFlags are how a fetch is carried out.
type optionFlags struct {
	Timeout     *time.Duration `group:"The fetch" placeholder:"DURATION" help:"How long the whole fetch may take, such as 10s; waits between attempts count."`
	Retry       *int32         `group:"The fetch" placeholder:"N" help:"Try at most N times more. Default: as the service does, 2 times; 0: once only."`
	RetryDelay  *time.Duration `name:"retry-delay" group:"The fetch" placeholder:"DURATION" help:"Wait so long between attempts, unless the upstream asks for another time; default: a short, random wait that grows."`
	Location    bool           `name:"location" short:"L" xor:"follow" group:"The fetch" help:"Follow redirects. This is so anyway, up to 10."`
	NoFollow    bool           `name:"no-follow" xor:"follow,redirects" group:"The fetch" help:"Take a redirect for the answer."`
	MaxRedirs   *int32         `name:"max-redirs" xor:"redirects" group:"The fetch" placeholder:"N" help:"Follow at most N redirects, at most 30; one more is a failure. 0 is --no-follow."`
	Verbatim    bool           `group:"The fetch" help:"Send the fields that are given, in this order and spelling, and no others; follow, decode and repeat nothing. Host, Content-Length and their like may be given, if they say what is sent anyway."`
	Expect100   bool           `name:"expect100" group:"The fetch" help:"Send the body when the upstream says 100 Continue, or after 1 s without a word."`
	ExpectWait  *time.Duration `name:"expect100-timeout" group:"The fetch" placeholder:"DURATION" help:"The same, but wait so long, at most 30s."`
	NoDecode    bool           `name:"no-decode" group:"The fetch" help:"Take the body as it is coded, and do not ask for a coding."`
	MaxFilesize *int64         `name:"max-filesize" group:"The fetch" placeholder:"BYTES" help:"Fail when the body has more bytes, decoded."`
	SpeedLimit  *int64         `name:"speed-limit" short:"Y" group:"The fetch" placeholder:"BYTES" help:"Fail when the body comes slower than so many bytes per second over 30 s. Default 1024."`
}

// answerFlags are what becomes of the answer.
type answerFlags struct {
	Output    string     `short:"o" type:"given" group:"The answer" placeholder:"FILE" help:"Stream the body to FILE, which appears when it is whole. This needs the right stream."`
	Stream    bool       `group:"The answer" help:"Stream the body; it may then be larger than 3 MiB. This needs the right stream."`
	Include   bool       `short:"i" group:"The answer" help:"Put the heads of the responses before the body."`
	Fail      bool       `short:"f" group:"The answer" help:"Exit with 22 and write no body when the status is 400 or more."`
	Verbose   bool       `short:"v" group:"The answer" help:"Print what was sent, '> ', what came, '< ', and what is known of connections and attempts, '* ', to standard error. Values of fields that hold credentials or cookies are left out."`
	Report    reportForm `group:"The answer" help:"Print the head of the response and what was done, drawn on a time scale, to standard error; --report=json prints the report alone, as JSON, and with --silent nothing else goes there."`
	Silent    bool       `short:"s" group:"The answer" help:"Print no progress, no notes and no errors: the exit code tells."`
	ShowError bool       `name:"show-error" short:"S" group:"The answer" help:"With --silent: print errors."`
}

// Help is the end of the command's help.
func (getCommand) Help() string {
	return "The body goes to standard output, everything else to standard error. " +
		"A body that is not text is not written to a terminal (exit code 8).\n\n" +
		"With --fail, --report and --verbose read up to 1 MiB of a streamed body that is not written, for the report comes after it.\n\n" +
		"With --offline the exit code is 4 if policy would deny the request and 3 if the service would refuse it; a service that cannot be reached is no error.\n\n" + exitCodesHelp
}

// Run performs the fetch.
func (c *getCommand) Run(ctx context.Context, s streams, name program) error {
	err := c.run(ctx, s, name)
	if err != nil && c.Silent && !c.ShowError {
		return &problem{code: asProblem(err).code}
	}
	return err
}

func (c *getCommand) run(ctx context.Context, s streams, name program) error {
	request, err := c.request(s.in)
	if err != nil {
		return &problem{exitUsage, "cannot send this request", err.Error(), fmt.Sprintf("%s get --help", name)}
	}
	if c.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *c.Timeout+deadlineMargin)
		defer cancel()
	}
	service, err := c.connect()
	if err != nil {
		return err
	}
	defer service.Close()
	if c.Offline {
		return preview{service, s.out, name, c.typed()}.show(ctx, request)
	}
	f := c.fetcher(s, name, service)
	if c.Verbose {
		f.verbose = &transcript{w: s.err, sent: request}
	}
	if c.Stream || c.Output != "" {
		return f.stream(ctx, request, c.Output)
	}
	return f.unary(ctx, request)
}

// fetcher is what puts the answer where the flags say.
func (c *getCommand) fetcher(s streams, name program, service *connection) *fetcher {
	f := &fetcher{
		service: service, name: name, out: s.out, err: s.err, progress: s.err,
		fail: c.Fail, include: c.Include || c.Head, report: c.Report, silent: c.Silent, typed: c.typed(),
	}
	if terminalWidth(s.out) != nil {
		f.out = &screen{terminal: s.out}
	}
	if c.Silent {
		f.progress = io.Discard
	}
	return f
}
