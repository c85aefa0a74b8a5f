package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// maxUnwanted is how much of a body is read only for the report after it, in
// bytes.
const maxUnwanted = 1 << 20

// fetcher sends a request and puts its answer where the user wants it.
type fetcher struct {
	service  *connection
	name     program
	out, err io.Writer
	progress io.Writer         // where downloads show how far they are
	fail     bool              // whether a status of 400 or more is a problem
	include  bool              // whether heads go where the body goes
	verbose  *transcript       // nil: none
	report   reportForm        // how the report is printed
	silent   bool              // whether notes are left out
	typed    map[string]string // what the user typed for a part of the request, by its path
}

// unary takes the answer in one message.
func (f *fetcher) unary(ctx context.Context, request *fetchgatev1.FetchRequest) error {
	answer, err := f.service.Fetch(ctx, request)
	if err != nil {
		return f.problem(ctx, err)
	}
	response := answer.GetResponse()
	f.verbose.whole(answer)
	f.printHead(response.GetHead())
	f.printReport(answer.GetReport())
	switch {
	case answer.GetFailure() != nil:
		return failedAt(request.GetRequest().GetUrl(), answer.GetFailure())
	case response == nil:
		return broken("the answer holds neither a response nor a failure")
	}
	if f.include {
		for _, head := range append(slices.Concat(response.GetInterim(), response.GetHistory()), response.GetHead()) {
			if err := writeHead(f.out, head); err != nil {
				return err
			}
		}
	}
	if p := f.judge(response.GetHead()); p != nil {
		return p
	}
	_, err = f.out.Write(response.GetBody())
	return err
}

// stream takes the answer piece by piece, into the file of that path or, where
// path is empty or "-", to standard output.
func (f *fetcher) stream(ctx context.Context, request *fetchgatev1.FetchRequest, path string) error {
	sink, heads := f.out, f.out
	var file *target
	var shown *progress
	if path != "" && path != "-" {
		var err error
		if file, err = openTarget(path); err != nil {
			return &problem{exitUsage, "cannot write to " + path, bare(err).Error(), "name a file that can be written with -o"}
		}
		defer file.discard()
		shown = newProgress(f.progress, path, time.Now())
		defer shown.clear()
		sink, heads = io.MultiWriter(file, shown), file
	}
	d := &delivery{fetcher: f, sink: sink, heads: heads, progress: shown}
	if err := d.receive(ctx, request); err != nil {
		return err
	}
	if shown != nil {
		shown.clear() // it is on the line where the report begins
	}
	f.verbose.facts(d.summary.GetReport())
	f.printReport(d.summary.GetReport())
	if d.unwanted != nil {
		return d.unwanted
	}
	if failure := d.summary.GetFailure(); failure != nil {
		return failedAt(request.GetRequest().GetUrl(), failure)
	}
	if file == nil {
		return nil
	}
	if err := file.commit(); err != nil {
		return err
	}
	shown.saved(time.Now())
	return nil
}

// delivery is one streamed response on its way to its sink.
type delivery struct {
	*fetcher
	sink     io.Writer // of the body
	heads    io.Writer // where heads go that are to be with the body
	progress *progress // nil: none

	received int64
	unwanted *problem // why the body is read only for the report after it; nil: it is not
	summary  *fetchgatev1.StreamSummary
}

// receive writes the body to the sink and keeps the summary. A stream that ends
// without one was cut short.
func (d *delivery) receive(ctx context.Context, request *fetchgatev1.FetchRequest) error {
	rpc, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := d.service.StreamFetch(rpc, &fetchgatev1.StreamFetchRequest{
		Request: request.GetRequest(), Options: request.GetOptions(),
	})
	if err != nil {
		return d.problem(ctx, err)
	}
	for d.summary == nil {
		message, err := stream.Recv()
		if err == io.EOF {
			return broken("the stream ended without its summary: the body was cut short")
		}
		if err != nil {
			return d.problem(ctx, err)
		}
		if err := d.take(message); err != nil {
			return err
		}
	}
	return nil
}

// take takes one event. Those that were not asked for are passed over.
func (d *delivery) take(message *fetchgatev1.StreamFetchResponse) error {
	switch event := message.GetEvent().(type) {
	case *fetchgatev1.StreamFetchResponse_Interim:
		return d.takeHead(event.Interim)
	case *fetchgatev1.StreamFetchResponse_Hop:
		return d.takeHead(event.Hop)
	case *fetchgatev1.StreamFetchResponse_Head:
		if err := d.takeHead(event.Head); err != nil {
			return err
		}
		d.printHead(event.Head)
		if d.progress != nil {
			d.progress.total = bodyLength(event.Head)
		}
		d.unwanted = d.judge(event.Head)
		if d.unwanted != nil && d.report == "" && d.verbose == nil {
			return d.unwanted
		}
	case *fetchgatev1.StreamFetchResponse_Data:
		if event.Data.GetOffsetBytes() != d.received {
			return broken(fmt.Sprintf("the stream went on at byte %d of the body instead of %d", event.Data.GetOffsetBytes(), d.received))
		}
		if d.unwanted != nil {
			return d.discard(event.Data.GetData())
		}
		n, err := d.sink.Write(event.Data.GetData())
		d.received += int64(n)
		return err
	case *fetchgatev1.StreamFetchResponse_Summary:
		d.summary = event.Summary
	}
	return nil
}

// takeHead puts a head, which need not be the last, where the user wants it.
func (d *delivery) takeHead(head *fetchgatev1.HttpHead) error {
	d.verbose.came(head)
	if !d.include {
		return nil
	}
	return writeHead(d.heads, head)
}

// discard counts a piece of a body that is not wanted, until it is too much for
// the report after it.
func (d *delivery) discard(piece []byte) error {
	d.received += int64(len(piece))
	if d.received <= maxUnwanted {
		return nil
	}
	d.unwanted.why = fmt.Sprintf("there is no report: it comes after the body, which has more than %s", formatBytes(maxUnwanted))
	return d.unwanted
}

// problem says what an RPC error means for the user. It names what the user
// typed, not the part of the request that this became.
func (f *fetcher) problem(ctx context.Context, err error) *problem {
	p := f.service.problem(ctx, err, f.name)
	path, rest, _ := strings.Cut(p.why, ": ")
	if typed := f.typed[path]; typed != "" {
		p.why, p.next = typed+": "+inFlags(rest), "mend "+typed
	}
	if strings.Contains(status.Convert(err).Message(), moreSays) {
		p.next += " " + moreOffline
	}
	return p
}

// printHead prints the head if the user asked for it, or else where a redirect
// leads, whose body is mostly empty.
func (f *fetcher) printHead(head *fetchgatev1.HttpHead) {
	if f.report == reportText {
		printHead(f.err, head)
	}
	if f.report != "" || f.include || f.verbose != nil {
		return
	}
	if to := location(head); to != "" && head.GetStatus() >= 300 && head.GetStatus() < 400 {
		fmt.Fprintf(f.err, "fetchgate: the upstream answered %s, which leads to %s and is not followed\n", statusLine(head), to)
	}
}

// location is the value of a Location field, fit for a terminal; empty when
// there is none.
func location(head *fetchgatev1.HttpHead) string {
	for _, field := range head.GetHeaders() {
		if strings.EqualFold(field.GetName(), "Location") {
			return fetch.Escape(field.GetValue(), maxMessage)
		}
	}
	return ""
}

func (f *fetcher) printReport(report *fetchgatev1.FetchReport) {
	switch f.report {
	case reportText:
		printReport(f.err, report, newChart(f.err))
	case reportJSON:
		writeJSON(f.err, report)
	default:
		f.noteDenial(report)
		f.noteLowered(report.GetClamped())
	}
}

// noteDenial says that what was fetched ends with the mode enforce. What -v prints
// says so itself.
func (f *fetcher) noteDenial(report *fetchgatev1.FetchReport) {
	if report.GetWouldDeny() && !f.silent && f.verbose == nil {
		fmt.Fprintf(f.err, "note: would be denied by %s: it went ahead since the mode is report\n", cmp.Or(escaped(denier(report)), "policy"))
	}
}

// denier is the rule that denies the first hop that any denies; where the report
// has no hops, it is that of the last.
func denier(report *fetchgatev1.FetchReport) string {
	for _, attempt := range report.GetAttempts() {
		for _, hop := range attempt.GetHops() {
			if hop.GetWouldDeny() != "" {
				return hop.GetRule()
			}
		}
	}
	return report.GetRule()
}

// noteLowered names what the service did not give as it was asked for. A report
// that is printed says so itself.
func (f *fetcher) noteLowered(paths []string) {
	if len(paths) == 0 || f.silent {
		return
	}
	var names []string
	for _, path := range paths {
		if name := cmp.Or(f.typed[path], escaped(path)); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	fmt.Fprintf(f.err, "note: lowered to the server's maximum: %s\n", strings.Join(names, ", "))
}

// judge makes a problem of a status of 400 or more, if the user wants that.
func (f *fetcher) judge(head *fetchgatev1.HttpHead) *problem {
	if !f.fail || head.GetStatus() < 400 {
		return nil
	}
	return &problem{exitStatus, "the upstream answered " + statusLine(head), "",
		"read what it says about that: leave --fail out"}
}

func statusLine(head *fetchgatev1.HttpHead) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", head.GetStatus(), fetch.Escape(head.GetReason(), maxMessage)))
}

// bodyLength is the length of the body as it will arrive, or -1 where the head
// does not say it: a content coding is undone on the way.
func bodyLength(head *fetchgatev1.HttpHead) int64 {
	length := int64(-1)
	for _, field := range head.GetHeaders() {
		switch {
		case strings.EqualFold(field.GetName(), "Content-Encoding"):
			return -1
		case strings.EqualFold(field.GetName(), "Content-Length"):
			if n, err := strconv.ParseInt(string(field.GetValue()), 10, 64); err == nil && n >= 0 {
				length = n
			}
		}
	}
	return length
}

// broken is an answer that the contract rules out.
func broken(why string) *problem {
	return &problem{exitRPC, "the answer of fetchgate is not whole", why, "try again; if it goes on, see whether something between you and the service cuts streams"}
}
