package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

var (
	unary   = shape{rpc: "Fetch"}
	streams = shape{rpc: "StreamFetch", stream: true}
)

func testPlanner() planner {
	return planner{
		limits: fetch.DefaultLimits(), tls: fetch.TLSSettings{RootsID: "roots", MinVersion: tls.VersionTLS12},
		defaultFields: defaultFields("fetchgate/test"), generation: 7,
	}
}

// planned returns the plan of a request for http://example.com/ that alter has
// changed, and the violations if it is refused.
func planned(t *testing.T, s shape, alter func(*fetchgatev1.HttpRequest, *fetchgatev1.FetchOptions)) (*fetch.Plan, []violation) {
	t.Helper()
	request := &fetchgatev1.HttpRequest{Url: "http://example.com/"}
	options := &fetchgatev1.FetchOptions{
		Timeouts: &fetchgatev1.Timeouts{}, Response: &fetchgatev1.ResponseOptions{}, Connection: &fetchgatev1.ConnectionOptions{},
		Protocol: &fetchgatev1.ProtocolOptions{}, Tls: &fetchgatev1.TlsOptions{},
	}
	alter(request, options)
	plan, err := testPlanner().plan(s, request, options)
	if err == nil {
		return plan, nil
	}
	var r *refusal
	if !errors.As(err, &r) || r.code != codes.InvalidArgument || len(r.violations) == 0 || plan == nil {
		t.Fatalf("the refusal is %v beside the plan %v", err, plan)
	}
	return nil, r.violations
}

// wantRefused holds violations to one, of path and for reason.
func wantRefused(t *testing.T, violations []violation, path, reason string) {
	t.Helper()
	if len(violations) != 1 || violations[0].path != path || violations[0].reason != reason || violations[0].description == "" {
		t.Errorf("refused are %q, want %s for %s", violations, path, reason)
	}
}

// timeoutOf finds the timeout of a plan by its name in the contract.
func timeoutOf(t *testing.T, of fetch.Timeouts, name protoreflect.Name) time.Duration {
	t.Helper()
	all := map[protoreflect.Name]time.Duration{
		"dns": of.DNS, "connect": of.Connect, "tls": of.TLS, "response_header": of.Head, "idle_read": of.Idle,
		"write": of.Write, "pool": of.Pool, "attempt": of.Attempt, "total": of.Total,
	}
	d, known := all[name]
	if !known {
		t.Fatalf("the timeout %s is new in the contract: say here what becomes of it", name)
	}
	return d
}

// TestEveryTimeoutIsCheckedAndClamped walks over the timeouts of the contract,
// so that a new one cannot be forgotten.
func TestEveryTimeoutIsCheckedAndClamped(t *testing.T) {
	fields := (&fetchgatev1.Timeouts{}).ProtoReflect().Descriptor().Fields()
	for _, s := range []shape{unary, streams} {
		limits := fetch.DefaultLimits()
		byDefault, most := limits.Timeouts, limits.MaxTimeouts
		if s.stream {
			byDefault.Total, most.Total = 0, limits.MaxStreamTotal
		}
		for i := range fields.Len() {
			fd := fields.Get(i)
			if fd.Message() == nil {
				continue
			}
			t.Run(s.rpc+" "+string(fd.Name()), func(t *testing.T) {
				checkTimeout(t, s, fd, timeoutOf(t, byDefault, fd.Name()), timeoutOf(t, most, fd.Name()))
			})
		}
	}
}

func checkTimeout(t *testing.T, s shape, fd protoreflect.FieldDescriptor, byDefault, most time.Duration) {
	set := func(d *durationpb.Duration) (*fetch.Plan, []violation) {
		return planned(t, s, func(_ *fetchgatev1.HttpRequest, o *fetchgatev1.FetchOptions) {
			if d != nil {
				o.Timeouts.ProtoReflect().Set(fd, protoreflect.ValueOfMessage(d.ProtoReflect()))
			}
		})
	}
	got := func(p *fetch.Plan) time.Duration { return timeoutOf(t, p.Timeouts, fd.Name()) }
	checkDuration(t, "options.timeouts."+string(fd.Name()), set, got, byDefault, most)
}

// TestContinueTimeoutIsCheckedAndClamped: it is a timeout, though it is not
// among the others.
func TestContinueTimeoutIsCheckedAndClamped(t *testing.T) {
	set := func(d *durationpb.Duration) (*fetch.Plan, []violation) {
		return planned(t, unary, func(r *fetchgatev1.HttpRequest, o *fetchgatev1.FetchOptions) {
			r.Body = rawBody(1)
			o.Protocol.ExpectContinue, o.Protocol.ContinueTimeout = proto.Bool(true), d
		})
	}
	got := func(p *fetch.Plan) time.Duration { return p.Timeouts.Continue }
	checkDuration(t, "options.protocol.continue_timeout", set, got, time.Second, 30*time.Second)
}

// checkDuration holds what set makes of a duration at path to its default and
// its maximum.
func checkDuration(t *testing.T, path string, set func(*durationpb.Duration) (*fetch.Plan, []violation), got func(*fetch.Plan) time.Duration, byDefault, most time.Duration) {
	for _, c := range []struct {
		given   *durationpb.Duration
		want    time.Duration
		clamped bool
	}{
		{nil, byDefault, false},
		{durationpb.New(1), 1, false},
		{durationpb.New(most - 1), most - 1, false},
		{durationpb.New(most), most, false},
		{durationpb.New(most + 1), most, true},
		{durationpb.New(math.MaxInt64), most, true},
		{&durationpb.Duration{Seconds: 315_576_000_000}, most, true}, // more than a time.Duration can hold
	} {
		plan, violations := set(c.given)
		if violations != nil {
			t.Errorf("%v is refused: %v", c.given, violations)
			continue
		}
		if got := got(plan); got != c.want {
			t.Errorf("%v gives %v, want %v", c.given, got, c.want)
		}
		if want := map[bool][]string{true: {path}}[c.clamped]; !slices.Equal(plan.Clamped, want) {
			t.Errorf("%v: clamped are %q, want %q", c.given, plan.Clamped, want)
		}
	}
	for _, nonsense := range []*durationpb.Duration{
		{}, durationpb.New(-1), durationpb.New(-time.Hour), durationpb.New(math.MinInt64),
		{Seconds: 1, Nanos: -1}, {Seconds: -1, Nanos: 1}, {Nanos: 1e9}, {Nanos: math.MinInt32},
		{Seconds: 315_576_000_001}, {Seconds: math.MaxInt64}, {Seconds: math.MinInt64},
	} {
		if plan, violations := set(nonsense); plan != nil {
			t.Errorf("%v is taken for %v", nonsense, got(plan))
		} else {
			wantRefused(t, violations, path, "FIELD_INVALID")
		}
	}
}

// number is an option that is a number, where it goes, and what its range is.
type number struct {
	path  string
	set   func(*fetchgatev1.FetchOptions, int64)
	got   func(*fetch.Plan) int64
	least int64
	most  int64
	unset int64
	// refused tells that what is above most is refused, not clamped.
	refused bool
	factor  int64 // between the option and the plan
}

func numbers(s shape) map[string]number {
	limits := fetch.DefaultLimits()
	largest := limits.MaxResponseBodyBytes
	if s.stream {
		largest = fetch.Unbounded
	}
	return map[string]number{
		"options.timeouts.min_throughput_bytes_per_second": {
			set:   func(o *fetchgatev1.FetchOptions, v int64) { o.Timeouts.MinThroughputBytesPerSecond = &v },
			got:   func(p *fetch.Plan) int64 { return p.MinThroughput.Bytes },
			least: 1, most: 1 << 30, unset: limits.MinThroughput.Bytes, refused: true, factor: 30,
		},
		"options.response.max_body_bytes": {
			set:   func(o *fetchgatev1.FetchOptions, v int64) { o.Response.MaxBodyBytes = &v },
			got:   func(p *fetch.Plan) int64 { return p.Response.MaxBodyBytes },
			least: 0, most: largest, unset: largest, factor: 1,
		},
		"options.response.max_head_bytes": {
			set:   func(o *fetchgatev1.FetchOptions, v int64) { o.Response.MaxHeadBytes = proto.Int32(int32(v)) },
			got:   func(p *fetch.Plan) int64 { return int64(p.Response.MaxHeadBytes) },
			least: 1, most: 64 << 10, unset: 64 << 10, factor: 1,
		},
		"options.response.max_head_fields": {
			set:   func(o *fetchgatev1.FetchOptions, v int64) { o.Response.MaxHeadFields = proto.Int32(int32(v)) },
			got:   func(p *fetch.Plan) int64 { return int64(p.Response.MaxFields) },
			least: 1, most: 256, unset: 256, factor: 1,
		},
	}
}

func TestEveryNumberIsCheckedAndClamped(t *testing.T) {
	for _, s := range []shape{unary, streams} {
		for path, n := range numbers(s) {
			n.path = path
			t.Run(s.rpc+" "+path, func(t *testing.T) { checkNumber(t, s, n) })
		}
	}
}

func checkNumber(t *testing.T, s shape, n number) {
	set := func(v int64) (*fetch.Plan, []violation) {
		return planned(t, s, func(_ *fetchgatev1.HttpRequest, o *fetchgatev1.FetchOptions) { n.set(o, v) })
	}
	plan, violations := planned(t, s, func(*fetchgatev1.HttpRequest, *fetchgatev1.FetchOptions) {})
	if violations != nil || n.got(plan) != n.unset {
		t.Fatalf("unset is %v, want %d: %v", plan, n.unset, violations)
	}
	for _, v := range []int64{n.least, n.least + 1, n.most - 1, n.most} {
		if plan, violations := set(v); violations != nil || n.got(plan) != v*n.factor || len(plan.Clamped) > 0 {
			t.Errorf("%d is not taken as it is: %v, %v", v, plan, violations)
		}
	}
	for _, v := range []int64{n.least - 1, math.MinInt32} {
		_, violations := set(v)
		wantRefused(t, violations, n.path, "FIELD_INVALID")
	}
	if n.most == math.MaxInt64 {
		return
	}
	for _, v := range []int64{n.most + 1, math.MaxInt32} {
		plan, violations := set(v)
		switch {
		case n.refused:
			wantRefused(t, violations, n.path, "FIELD_INVALID")
		case violations != nil || n.got(plan) != n.most*n.factor || !slices.Equal(plan.Clamped, []string{n.path}):
			t.Errorf("%d is not clamped to %d: %v, %v", v, n.most, plan, violations)
		}
	}
}

// TestNoNumberIsForgotten: each offered number of the options is in the table.
func TestNoNumberIsForgotten(t *testing.T) {
	for group, m := range map[string]proto.Message{
		"timeouts": &fetchgatev1.Timeouts{}, "response": &fetchgatev1.ResponseOptions{}, "connection": &fetchgatev1.ConnectionOptions{},
		"protocol": &fetchgatev1.ProtocolOptions{}, "tls": &fetchgatev1.TlsOptions{},
	} {
		fields := m.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			fd := fields.Get(i)
			isNumber := fd.Kind() == protoreflect.Int32Kind || fd.Kind() == protoreflect.Int64Kind || fd.Kind() == protoreflect.DoubleKind
			path := fmt.Sprintf("options.%s.%s", group, fd.Name())
			if _, known := numbers(unary)[path]; isNumber && offered[fd.FullName()] && !known {
				t.Errorf("nothing checks the range of %s", path)
			}
		}
	}
}

// TestTooLargeBodies: whose limit it was decides what the caller is to do.
func TestTooLargeBodies(t *testing.T) {
	for _, c := range []struct {
		shape shape
		given *int64
		want  fetch.Reason
	}{
		{unary, nil, fetch.ReasonResponseTooLarge},
		{unary, proto.Int64(3<<20 - 1), fetch.ReasonBodyTooLarge},
		{unary, proto.Int64(3 << 20), fetch.ReasonResponseTooLarge},
		{unary, proto.Int64(3<<20 + 1), fetch.ReasonResponseTooLarge},
		{unary, proto.Int64(0), fetch.ReasonBodyTooLarge},
		{streams, nil, fetch.ReasonBodyTooLarge},
		{streams, proto.Int64(1 << 40), fetch.ReasonBodyTooLarge},
	} {
		plan, violations := planned(t, c.shape, func(_ *fetchgatev1.HttpRequest, o *fetchgatev1.FetchOptions) { o.Response.MaxBodyBytes = c.given })
		if violations != nil || plan.Response.TooLarge != c.want {
			t.Errorf("%s, %v: %v, want %s", c.shape.rpc, c.given, plan, c.want)
		}
	}
}

// TestDefaults: what a request that says nothing gets, by either RPC.
func TestDefaults(t *testing.T) {
	limits := fetch.DefaultLimits()
	for _, s := range []shape{unary, streams} {
		plan, err := testPlanner().plan(s, &fetchgatev1.HttpRequest{Url: "http://example.com"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		same, violations := planned(t, s, func(*fetchgatev1.HttpRequest, *fetchgatev1.FetchOptions) {})
		if violations != nil || same.Response != plan.Response || same.Timeouts != plan.Timeouts || same.TLS != plan.TLS {
			t.Errorf("options that are empty differ from none: %+v, %+v", same, plan)
		}
		want := fetch.ResponsePlan{
			MaxHeadBytes: 64 << 10, MaxFields: 256, MaxInterim: 5, MaxBodyBytes: 3 << 20, TooLarge: fetch.ReasonResponseTooLarge,
			Decode: true, MaxCodings: 3, MaxRatio: 100, RatioFloor: 1 << 20,
		}
		if s.stream {
			want.MaxBodyBytes, want.TooLarge = fetch.Unbounded, fetch.ReasonBodyTooLarge
		}
		if plan.Response != want {
			t.Errorf("%s: the response is %+v, want %+v", s.rpc, plan.Response, want)
		}
		if plan.RPC != s.rpc || plan.Method != "GET" || plan.Source != nil || plan.Retry.MaxAttempts != 3 || plan.Redirect.Max != 10 ||
			plan.MaxDials != limits.MaxDialsPerAttempt || plan.Generation != 7 || plan.MinThroughput != limits.MinThroughput ||
			plan.Version != fetch.HTTPAny || plan.FullReport || plan.Fresh || plan.CloseAfter || plan.Affinity != "" || plan.Clamped != nil {
			t.Errorf("%s: the plan is %+v", s.rpc, plan)
		}
		if want := (fetch.TLSSettings{RootsID: "roots", MinVersion: tls.VersionTLS12}); plan.TLS != want {
			t.Errorf("%s: TLS is %+v", s.rpc, plan.TLS)
		}
	}
}

// TestOptions: each option that is a choice, and where it goes.
func TestOptions(t *testing.T) {
	type options = fetchgatev1.FetchOptions
	version := func(v fetchgatev1.HttpVersion) func(*options) {
		return func(o *options) { o.Protocol.Version = &v }
	}
	speaks := func(v fetch.HTTPVersion) func(*fetch.Plan) bool {
		return func(p *fetch.Plan) bool { return p.Version == v }
	}
	least := func(v fetchgatev1.TlsVersion) func(*options) {
		return func(o *options) { o.Tls.MinimumVersion = &v }
	}
	from := func(v uint16) func(*fetch.Plan) bool {
		return func(p *fetch.Plan) bool { return p.TLS.MinVersion == v }
	}
	for name, c := range map[string]struct {
		set  func(*options)
		want func(*fetch.Plan) bool
	}{
		"decode off":     {func(o *options) { o.Response.Decode = proto.Bool(false) }, func(p *fetch.Plan) bool { return !p.Response.Decode }},
		"decode on":      {func(o *options) { o.Response.Decode = proto.Bool(true) }, func(p *fetch.Plan) bool { return p.Response.Decode }},
		"interim":        {func(o *options) { o.Response.Interim = proto.Bool(true) }, func(p *fetch.Plan) bool { return p.Response.Interim }},
		"fresh":          {func(o *options) { o.Connection.Fresh = proto.Bool(true) }, func(p *fetch.Plan) bool { return p.Fresh && !p.CloseAfter }},
		"close after":    {func(o *options) { o.Connection.CloseAfter = proto.Bool(true) }, func(p *fetch.Plan) bool { return p.CloseAfter && !p.Fresh }},
		"affinity":       {func(o *options) { o.Connection.Affinity = proto.String(strings.Repeat("~", 64)) }, func(p *fetch.Plan) bool { return len(p.Affinity) == 64 }},
		"any version":    {version(fetchgatev1.HttpVersion_HTTP_VERSION_UNSPECIFIED), speaks(fetch.HTTPAny)},
		"HTTP/1.1":       {version(fetchgatev1.HttpVersion_HTTP_VERSION_1_1), speaks(fetch.HTTP1)},
		"HTTP/2":         {version(fetchgatev1.HttpVersion_HTTP_VERSION_2), speaks(fetch.HTTP2)},
		"TLS as it is":   {least(fetchgatev1.TlsVersion_TLS_VERSION_UNSPECIFIED), from(tls.VersionTLS12)},
		"TLS 1.2":        {least(fetchgatev1.TlsVersion_TLS_VERSION_1_2), from(tls.VersionTLS12)},
		"TLS 1.3":        {least(fetchgatev1.TlsVersion_TLS_VERSION_1_3), from(tls.VersionTLS13)},
		"default report": {func(o *options) { o.Report = fetchgatev1.ReportDetail_REPORT_DETAIL_UNSPECIFIED.Enum() }, func(p *fetch.Plan) bool { return !p.FullReport }},
		"report summary": {func(o *options) { o.Report = fetchgatev1.ReportDetail_REPORT_DETAIL_SUMMARY.Enum() }, func(p *fetch.Plan) bool { return !p.FullReport }},
		"report in full": {func(o *options) { o.Report = fetchgatev1.ReportDetail_REPORT_DETAIL_FULL.Enum() }, func(p *fetch.Plan) bool { return p.FullReport }},
	} {
		plan, violations := planned(t, unary, func(_ *fetchgatev1.HttpRequest, o *options) { c.set(o) })
		if violations != nil || !c.want(plan) {
			t.Errorf("%s: the plan is %+v, violations %v", name, plan, violations)
		}
	}
}

// TestCallersOnlyTighten: a request cannot ask for an older TLS than the
// server's.
func TestCallersOnlyTighten(t *testing.T) {
	p := testPlanner()
	p.tls.MinVersion = tls.VersionTLS13
	for _, v := range []fetchgatev1.TlsVersion{fetchgatev1.TlsVersion_TLS_VERSION_1_2, fetchgatev1.TlsVersion_TLS_VERSION_1_3} {
		plan, err := p.plan(unary, &fetchgatev1.HttpRequest{Url: "https://example.com"}, &fetchgatev1.FetchOptions{Tls: &fetchgatev1.TlsOptions{MinimumVersion: &v}})
		if err != nil || plan.TLS.MinVersion != tls.VersionTLS13 {
			t.Errorf("%v gives %v, %v", v, plan, err)
		}
	}
}

// TestPlanRefuses: each wrong part of a request is named, by path and reason.
func TestPlanRefuses(t *testing.T) {
	type options = fetchgatev1.FetchOptions
	type request = fetchgatev1.HttpRequest
	field := func(name, value string) func(*request, *options) {
		return func(r *request, _ *options) {
			r.Headers = []*fetchgatev1.HeaderField{{Name: "A"}, {Name: name, Value: []byte(value)}}
		}
	}
	for name, c := range map[string]struct {
		alter        func(*request, *options)
		path, reason string
	}{
		"no URL":     {func(r *request, _ *options) { r.Url = "" }, "request.url", "INVALID_URL"},
		"a password": {func(r *request, _ *options) { r.Url = "http://user:hunter2@example.com/" }, "request.url", "INVALID_URL"},
		"a scheme":   {func(r *request, _ *options) { r.Url = "ftp://example.com/" }, "request.url", "UNSUPPORTED_SCHEME"},
		"a long URL": {func(r *request, _ *options) { r.Url += strings.Repeat("a", 16<<10) }, "request.url", "INVALID_URL"},
		"long params": {func(r *request, _ *options) {
			r.Params = []*fetchgatev1.QueryParam{{Name: strings.Repeat("a", 16<<10)}}
		}, "request.params", "INVALID_URL"},
		"a target":             {func(r *request, _ *options) { r.RawTarget = "http://other.example/" }, "request.raw_target", "INVALID_URL"},
		"a target and params":  {func(r *request, _ *options) { r.RawTarget, r.Params = "/", []*fetchgatev1.QueryParam{{}} }, "request.params", "FIELD_INVALID"},
		"a method":             {func(r *request, _ *options) { r.Method = "CONNECT" }, "request.method", "FIELD_INVALID"},
		"a method in lower":    {func(r *request, _ *options) { r.Method = "get" }, "request.method", "FIELD_INVALID"},
		"a field of ours":      {field("Host", "example.com"), "request.headers[1]", "FIELD_INVALID"},
		"a field's name":       {field("a b", ""), "request.headers[1]", "FIELD_INVALID"},
		"a field's value":      {field("B", "hunter2\r\n"), "request.headers[1]", "FIELD_INVALID"},
		"large fields":         {field("B", strings.Repeat("b", 64<<10)), "request.headers[1]", "FIELD_INVALID"},
		"many fields":          {func(r *request, _ *options) { r.Headers = headersNamed(101) }, "request.headers[100]", "FIELD_INVALID"},
		"an omitted field":     {func(r *request, _ *options) { r.OmitDefaultFields = []string{"accept", "host"} }, "request.omit_default_fields[1]", "FIELD_INVALID"},
		"a body of no kind":    {func(r *request, _ *options) { r.Body = &fetchgatev1.Body{} }, "request.body", "FIELD_INVALID"},
		"a body not JSON":      {func(r *request, _ *options) { r.Body = jsonBody("hunter2") }, "request.body.json", "FIELD_INVALID"},
		"a large body":         {func(r *request, _ *options) { r.Body = rawBody(3<<20 + 1) }, "request.body", "FIELD_INVALID"},
		"a body large encoded": {func(r *request, _ *options) { r.Body = formBody(strings.Repeat("\n", 1<<20)) }, "request.body", "FIELD_INVALID"},
		"an empty affinity":    {func(_ *request, o *options) { o.Connection.Affinity = proto.String("") }, "options.connection.affinity", "FIELD_INVALID"},
		"a long affinity":      {func(_ *request, o *options) { o.Connection.Affinity = proto.String(strings.Repeat("a", 65)) }, "options.connection.affinity", "FIELD_INVALID"},
		"a spaced affinity":    {func(_ *request, o *options) { o.Connection.Affinity = proto.String("a b") }, "options.connection.affinity", "FIELD_INVALID"},
		"an affinity beyond":   {func(_ *request, o *options) { o.Connection.Affinity = proto.String("é") }, "options.connection.affinity", "FIELD_INVALID"},
		"HTTP/3":               {func(_ *request, o *options) { o.Protocol.Version = fetchgatev1.HttpVersion_HTTP_VERSION_3.Enum() }, "options.protocol.version", "NOT_OFFERED"},
		"HTTP/1.0":             {func(_ *request, o *options) { o.Protocol.Version = fetchgatev1.HttpVersion_HTTP_VERSION_1_0.Enum() }, "options.protocol.version", "NOT_OFFERED"},
		"an unknown version":   {func(_ *request, o *options) { o.Protocol.Version = fetchgatev1.HttpVersion(99).Enum() }, "options.protocol.version", "NOT_OFFERED"},
		"an unknown TLS":       {func(_ *request, o *options) { o.Tls.MinimumVersion = fetchgatev1.TlsVersion(99).Enum() }, "options.tls.minimum_version", "NOT_OFFERED"},
		"an unknown report":    {func(_ *request, o *options) { o.Report = fetchgatev1.ReportDetail(99).Enum() }, "options.report", "NOT_OFFERED"},
	} {
		t.Run(name, func(t *testing.T) {
			plan, violations := planned(t, unary, c.alter)
			if plan != nil {
				t.Fatalf("the plan is %+v", plan)
			}
			wantRefused(t, violations, c.path, c.reason)
			if text := fmt.Sprint(violations); strings.Contains(text, "hunter2") {
				t.Errorf("a secret is shown: %s", text)
			}
		})
	}
	if _, err := testPlanner().plan(unary, nil, nil); err == nil || !strings.HasPrefix(err.Error(), "request: ") {
		t.Errorf("without a request: %v", err)
	}
}

func headersNamed(n int) []*fetchgatev1.HeaderField {
	fields := make([]*fetchgatev1.HeaderField, n)
	for i := range fields {
		fields[i] = &fetchgatev1.HeaderField{Name: fmt.Sprint("X-", i)}
	}
	return fields
}

func rawBody(n int) *fetchgatev1.Body {
	return &fetchgatev1.Body{Kind: &fetchgatev1.Body_Raw{Raw: make([]byte, n)}}
}

func jsonBody(text string) *fetchgatev1.Body {
	return &fetchgatev1.Body{Kind: &fetchgatev1.Body_Json{Json: []byte(text)}}
}

func formBody(value string) *fetchgatev1.Body {
	return &fetchgatev1.Body{Kind: &fetchgatev1.Body_Form{Form: &fetchgatev1.FormBody{Fields: []*fetchgatev1.QueryParam{{Name: "n", Value: value}}}}}
}

// TestRequestLimits: what is just within a limit is taken.
func TestRequestLimits(t *testing.T) {
	plan, violations := planned(t, unary, func(r *fetchgatev1.HttpRequest, _ *fetchgatev1.FetchOptions) {
		r.Headers, r.Body = headersNamed(100), rawBody(3<<20)
		r.Url += strings.Repeat("a", 16<<10-len(r.Url))
		r.Method = strings.Repeat("M", 32)
	})
	if violations != nil || plan.Source.Length() != 3<<20 || len(plan.Fields) != 103 || len(plan.Destination.URL()) != 16<<10 {
		t.Errorf("the plan is %v, violations %v", plan, violations)
	}
}

// TestAllThatIsWrongIsNamedAtOnce: nobody has to mend a request field by field.
func TestAllThatIsWrongIsNamedAtOnce(t *testing.T) {
	_, violations := planned(t, unary, func(r *fetchgatev1.HttpRequest, o *fetchgatev1.FetchOptions) {
		r.Method, r.Url, r.Body = "TRACE", "example.com", jsonBody("{")
		r.Headers = []*fetchgatev1.HeaderField{{Name: "TE"}}
		o.Timeouts.Dns, o.Timeouts.Total = &durationpb.Duration{}, durationpb.New(-1)
		o.Response.MaxHeadFields = proto.Int32(0)
		o.Protocol.Version = fetchgatev1.HttpVersion_HTTP_VERSION_3.Enum()
	})
	want := []string{
		"request.method", "request.url", "options.timeouts.dns", "options.timeouts.total", "options.response.max_head_fields",
		"options.protocol.version", "request.body.json", "request.headers[0]",
	}
	if got := paths(violations); !slices.Equal(got, want) {
		t.Errorf("refused are %q, want %q", got, want)
	}
}

// TestWrongFieldsAreBounded: a list as long as a message allows does not make a
// refusal as long.
func TestWrongFieldsAreBounded(t *testing.T) {
	_, violations := planned(t, unary, func(r *fetchgatev1.HttpRequest, _ *fetchgatev1.FetchOptions) {
		r.OmitDefaultFields = make([]string, 1<<20)
	})
	if len(violations) != maxViolations {
		t.Errorf("%d fields are refused, want %d", len(violations), maxViolations)
	}
}

// TestFields: the fields that go out, in order, for what the request says.
func TestFields(t *testing.T) {
	type request = fetchgatev1.HttpRequest
	type options = fetchgatev1.FetchOptions
	headers := func(pairs ...string) []*fetchgatev1.HeaderField {
		var fields []*fetchgatev1.HeaderField
		for i := 0; i < len(pairs); i += 2 {
			fields = append(fields, &fetchgatev1.HeaderField{Name: pairs[i], Value: []byte(pairs[i+1])})
		}
		return fields
	}
	const agent, accept, encoding = "User-Agent: fetchgate/test", "Accept: */*", "Accept-Encoding: gzip, deflate, br, zstd"
	for name, c := range map[string]struct {
		alter func(*request, *options)
		want  []string
	}{
		"none": {func(*request, *options) {}, []string{agent, accept, encoding}},
		"the caller's first, as they are": {func(r *request, _ *options) { r.Headers = headers("x-b", "1", "X-A", "", "x-b", "2") },
			[]string{"x-b: 1", "X-A: ", "x-b: 2", agent, accept, encoding}},
		"instead of defaults, whatever the case": {func(r *request, _ *options) { r.Headers = headers("user-agent", "mine", "ACCEPT", "a/b") },
			[]string{"user-agent: mine", "ACCEPT: a/b", encoding}},
		"an Accept-Encoding": {func(r *request, _ *options) { r.Headers = headers("accept-encoding", "br") }, []string{"accept-encoding: br", agent, accept}},
		"omitted":            {func(r *request, _ *options) { r.OmitDefaultFields = []string{"User-Agent", "accept"} }, []string{encoding}},
		"omitted twice":      {func(r *request, _ *options) { r.OmitDefaultFields = []string{"ACCEPT-ENCODING", "accept-encoding"} }, []string{agent, accept}},
		"omitted and given": {func(r *request, _ *options) {
			r.Headers, r.OmitDefaultFields = headers("Accept", "a/b"), []string{"accept"}
		}, []string{"Accept: a/b", agent, encoding}},
		"not decoded": {func(_ *request, o *options) { o.Response.Decode = proto.Bool(false) }, []string{agent, accept}},
		"a range":     {func(r *request, _ *options) { r.Headers = headers("range", "bytes=0-1") }, []string{"range: bytes=0-1", agent, accept}},
		"not decoded, and omitted": {func(r *request, o *options) {
			o.Response.Decode, r.OmitDefaultFields = proto.Bool(false), []string{"accept-encoding"}
		}, []string{agent, accept}},
		"the body's type": {func(r *request, _ *options) { r.Body = jsonBody("{}") }, []string{"Content-Type: application/json", agent, accept, encoding}},
		"another type":    {func(r *request, _ *options) { r.Body, r.Headers = jsonBody("{}"), headers("content-type", "a/b") }, []string{"content-type: a/b", agent, accept, encoding}},
		"no type":         {func(r *request, _ *options) { r.Body = rawBody(1) }, []string{agent, accept, encoding}},
		"a form's type":   {func(r *request, _ *options) { r.Body = formBody("v") }, []string{"Content-Type: application/x-www-form-urlencoded", agent, accept, encoding}},
	} {
		t.Run(name, func(t *testing.T) {
			plan, violations := planned(t, unary, c.alter)
			if violations != nil {
				t.Fatal(violations)
			}
			var got []string
			for _, f := range plan.Fields {
				got = append(got, f.Name+": "+string(f.Value))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("the fields are %q, want %q", got, c.want)
			}
		})
	}
}

// FuzzPlan: whatever bytes a caller sends, a request is refused with a status
// that can be sent, or becomes a plan that is within the limits.
func FuzzPlan(f *testing.F) {
	for _, m := range []*fetchgatev1.FetchRequest{
		{}, typicalRequest(),
		{Request: &fetchgatev1.HttpRequest{Url: "http://[::1]:8080/%zz?#é", RawTarget: "*", Method: "OPTIONS", Body: formBody("x")}},
		{
			Request: &fetchgatev1.HttpRequest{Url: "http://example.com/", Body: rawBody(2), Trailers: headersNamed(2), Headers: []*fetchgatev1.HeaderField{
				{Name: "hOST", Value: []byte("Example.com")}, {Name: "a_b"}, {Name: "Transfer-Encoding", Value: []byte("chunked")},
				{Name: "Expect", Value: []byte("100-continue")}, {Name: "Trailer", Value: []byte("X-0, X-1")}}},
			Options: &fetchgatev1.FetchOptions{Verbatim: proto.Bool(true), Protocol: &fetchgatev1.ProtocolOptions{ExpectContinue: proto.Bool(true)}},
		},
		{
			Request: &fetchgatev1.HttpRequest{OmitDefaultFields: []string{"é"}},
			Options: &fetchgatev1.FetchOptions{Timeouts: &fetchgatev1.Timeouts{Total: &durationpb.Duration{Nanos: -1}}},
		},
	} {
		wire, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire, false)
	}
	f.Fuzz(func(t *testing.T, wire []byte, stream bool) {
		m := &fetchgatev1.FetchRequest{}
		if proto.Unmarshal(wire, m) != nil {
			return
		}
		if v := refuseNotOffered(m); len(v) > 0 {
			checkRefusal(t, invalid(v))
			return
		}
		plan, err := testPlanner().plan(shape{rpc: "any", stream: stream}, m.GetRequest(), m.GetOptions())
		var r *refusal
		if errors.As(err, &r) {
			checkRefusal(t, r)
			return
		}
		most := fetch.DefaultLimits().MaxTimeouts
		most.Total = fetch.DefaultLimits().MaxStreamTotal
		for i := range (&fetchgatev1.Timeouts{}).ProtoReflect().Descriptor().Fields().Len() {
			fd := (&fetchgatev1.Timeouts{}).ProtoReflect().Descriptor().Fields().Get(i)
			if fd.Message() == nil {
				continue
			}
			if d := timeoutOf(t, plan.Timeouts, fd.Name()); d < 0 || d > timeoutOf(t, most, fd.Name()) {
				t.Errorf("%s is %v", fd.Name(), d)
			}
		}
		place := fetch.InHead
		if plan.Verbatim {
			place = fetch.InVerbatimHead
		}
		if err := fetch.CheckFieldsIn(place, plan.Fields, nil, 104, 65<<10); err != nil {
			t.Error(err)
		}
		if plan.Source == nil && (len(plan.Trailers) > 0 || plan.ExpectContinue) {
			t.Error("without a body there are trailers, or it is to wait")
		}
		if plan.Destination.Host == "" || fetch.CheckMethod(plan.Method) != nil {
			t.Errorf("the plan is for %q %q", plan.Method, plan.Destination.URL())
		}
	})
}
