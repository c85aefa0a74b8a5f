package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/body"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// planner makes plans of requests: it checks, fills in defaults and clamps.
type planner struct {
	limits fetch.Limits
	tls    fetch.TLSSettings
	// defaultFields go with requests that do not omit them.
	defaultFields [defaultCount]fetch.Field
	generation    int64
	held          fetch.Credentials
	// underscores tells that policy may let names of fields have '_'.
	underscores bool
}

// shape is how one RPC differs from another in what it plans.
type shape struct {
	rpc string
	// stream bodies are not bounded and have no total timeout by default.
	stream bool
	// who is asking.
	who fetch.Caller
}

// draft is a plan on its way, with what is wrong with it.
type draft struct {
	planner
	shape
	plan       *fetch.Plan
	violations []violation
}

func (d *draft) wrong(path, format string, args ...any) {
	d.violations = append(d.violations, violation{path, reasonFieldInvalid, fmt.Sprintf(format, args...)})
}

func (d *draft) notOffered(path, format string, args ...any) {
	d.violations = append(d.violations, violation{path, reasonNotOffered, fmt.Sprintf(format, args...)})
}

// plan returns the plan of a request, or as much of it as could be made and a
// *refusal that names every field that is wrong.
func (p planner) plan(s shape, request *fetchgatev1.HttpRequest, options *fetchgatev1.FetchOptions) (*fetch.Plan, error) {
	d := &draft{planner: p, shape: s, plan: &fetch.Plan{
		RPC: s.rpc, Needs: rightTo[s.rpc], MaxDials: p.limits.MaxDialsPerAttempt,
		TLS: p.tls, Generation: p.generation, Verbatim: options.GetVerbatim(),
	}}
	if request == nil {
		d.wrong("request", "it is missing; set its url")
		return d.plan, invalid(d.violations)
	}
	d.method(request)
	d.destination(request)
	d.timeouts(options.GetTimeouts())
	d.response(options.GetResponse())
	d.connection(options)
	d.body(request.GetBody())
	d.fields(request)
	d.trailers(request)
	d.expectation(options.GetProtocol(), request.GetBody() != nil)
	d.retries(options.GetRetry())
	d.redirects(options.GetRedirect())
	d.cookies(request.GetCookies())
	if d.plan.Verbatim {
		d.verbatim(request, options)
	}
	d.credentials(options.GetCredentials())
	d.labels(options.GetLabels())
	d.report(options)
	if len(d.violations) > 0 {
		return d.plan, invalid(d.violations)
	}
	return d.plan, nil
}

func (d *draft) method(m *fetchgatev1.HttpRequest) {
	d.plan.Method = m.GetMethod()
	if d.plan.Method == "" {
		d.plan.Method = "GET"
	}
	if err := fetch.CheckMethod(d.plan.Method); err != nil {
		d.wrong("request.method", "%v", err)
	}
}

func (d *draft) destination(m *fetchgatev1.HttpRequest) {
	dest, err := fetch.ParseURL(m.GetUrl())
	if err != nil {
		d.wrongURL("request.url", err)
		return
	}
	if raw := m.GetRawTarget(); raw != "" {
		if len(m.GetParams()) > 0 {
			d.wrong("request.params", "raw_target replaces the query; put the parameters into it")
		}
		if dest, err = dest.WithRawTarget(raw, d.plan.Method); err != nil {
			d.wrongURL("request.raw_target", err)
		}
	} else if params := m.GetParams(); len(params) > 0 {
		if dest, err = dest.WithParams(paramsOf(params)); err != nil {
			d.wrongURL("request.params", err)
		}
	}
	d.plan.Destination = dest
}

// wrongURL keeps the reason that URLs have of their own.
func (d *draft) wrongURL(path string, err error) {
	reason := reasonFieldInvalid
	var u *fetch.URLError
	if errors.As(err, &u) {
		reason, err = string(u.Reason), errors.New(u.Message)
	}
	d.violations = append(d.violations, violation{path, reason, err.Error()})
}

func paramsOf(m []*fetchgatev1.QueryParam) []fetch.Param {
	params := make([]fetch.Param, len(m))
	for i, p := range m {
		params[i] = fetch.Param{Name: p.GetName(), Value: p.GetValue()}
	}
	return params
}

func (d *draft) timeouts(m *fetchgatev1.Timeouts) {
	def, most := d.limits.Timeouts, d.limits.MaxTimeouts
	t := &d.plan.Timeouts
	t.DNS = d.duration("options.timeouts.dns", m.GetDns(), def.DNS, most.DNS)
	t.Connect = d.duration("options.timeouts.connect", m.GetConnect(), def.Connect, most.Connect)
	t.TLS = d.duration("options.timeouts.tls", m.GetTls(), def.TLS, most.TLS)
	t.Head = d.duration("options.timeouts.response_header", m.GetResponseHeader(), def.Head, most.Head)
	t.Idle = d.duration("options.timeouts.idle_read", m.GetIdleRead(), def.Idle, most.Idle)
	t.Write = d.duration("options.timeouts.write", m.GetWrite(), def.Write, most.Write)
	t.Pool = d.duration("options.timeouts.pool", m.GetPool(), def.Pool, most.Pool)
	t.Attempt = d.duration("options.timeouts.attempt", m.GetAttempt(), def.Attempt, most.Attempt)
	if d.stream {
		t.Total = d.duration("options.timeouts.total", m.GetTotal(), 0, d.limits.MaxStreamTotal)
	} else {
		t.Total = d.duration("options.timeouts.total", m.GetTotal(), def.Total, most.Total)
	}
	d.plan.Asked.Timeouts = fetch.Timeouts{
		DNS: named(m.GetDns(), t.DNS), Connect: named(m.GetConnect(), t.Connect), TLS: named(m.GetTls(), t.TLS),
		Head: named(m.GetResponseHeader(), t.Head), Idle: named(m.GetIdleRead(), t.Idle), Write: named(m.GetWrite(), t.Write),
		Pool: named(m.GetPool(), t.Pool), Attempt: named(m.GetAttempt(), t.Attempt), Total: named(m.GetTotal(), t.Total),
	}
	d.plan.MinThroughput = d.limits.MinThroughput
	if m != nil && m.MinThroughputBytesPerSecond != nil {
		rate := m.GetMinThroughputBytesPerSecond()
		if rate < 1 || rate > 1<<30 {
			d.wrong("options.timeouts.min_throughput_bytes_per_second", "%d is not between 1 and %d bytes per second", rate, 1<<30)
			return
		}
		d.plan.MinThroughput.Bytes = rate * int64(d.plan.MinThroughput.Over/time.Second)
	}
}

// named is the timeout that m became; 0 where the request does not name it.
func named(m *durationpb.Duration, timeout time.Duration) time.Duration {
	if m == nil {
		return 0
	}
	return timeout
}

// duration returns the timeout at path: the default if it is unset, the maximum
// if it is above.
func (d *draft) duration(path string, m *durationpb.Duration, def, most time.Duration) time.Duration {
	if m == nil {
		return def
	}
	if err := m.CheckValid(); err != nil {
		d.wrong(path, "it is not a duration that protobuf allows")
		return def
	}
	v := m.AsDuration()
	switch {
	case v <= 0:
		d.wrong(path, "a timeout of %v ends before it begins; leave it out for the default", v)
		return def
	case v > most:
		d.plan.Clamped = append(d.plan.Clamped, path)
		return most
	}
	return v
}

func (d *draft) response(m *fetchgatev1.ResponseOptions) {
	l := d.limits
	r := &d.plan.Response
	*r = fetch.ResponsePlan{
		MaxInterim: l.MaxInterim, MaxCodings: l.MaxCodings, MaxRatio: l.MaxDecodedRatio, RatioFloor: l.DecodedRatioFloor,
		Decode: !d.plan.Verbatim, Interim: m.GetInterim(), KeepChunks: m.GetChunkBoundaries(),
		MaxHeadBytes: l.MaxResponseFieldBytes, MaxFields: l.MaxResponseFields,
		MaxBodyBytes: l.MaxResponseBodyBytes, TooLarge: fetch.ReasonResponseTooLarge,
	}
	if d.stream {
		r.MaxBodyBytes, r.TooLarge = fetch.Unbounded, fetch.ReasonBodyTooLarge
	}
	if m == nil {
		return
	}
	if m.Decode != nil {
		r.Decode = m.GetDecode()
	}
	if r.KeepChunks && !d.stream {
		d.wrong("options.response.chunk_boundaries", "the answer of %s is one piece, in which nothing tells where chunks end; use StreamFetch, or leave it out", d.rpc)
	}
	if m.MaxBodyBytes != nil {
		d.plan.Asked.BodyBytes = true
		if most := d.number("options.response.max_body_bytes", m.GetMaxBodyBytes(), 0, r.MaxBodyBytes); most < r.MaxBodyBytes {
			r.MaxBodyBytes, r.TooLarge = most, fetch.ReasonBodyTooLarge
		}
	}
	if m.MaxHeadBytes != nil {
		r.MaxHeadBytes = int(d.number("options.response.max_head_bytes", int64(m.GetMaxHeadBytes()), 1, int64(r.MaxHeadBytes)))
	}
	if m.MaxHeadFields != nil {
		r.MaxFields = int(d.number("options.response.max_head_fields", int64(m.GetMaxHeadFields()), 1, int64(r.MaxFields)))
	}
}

// number returns v, or most where v is above it.
func (d *draft) number(path string, v, least, most int64) int64 {
	if v < least {
		d.wrong(path, "%d is below %d", v, least)
		return most
	}
	if v > most {
		d.plan.Clamped = append(d.plan.Clamped, path)
		return most
	}
	return v
}

// maxAffinityBytes is the longest connection.affinity.
const maxAffinityBytes = 64

func (d *draft) connection(m *fetchgatev1.FetchOptions) {
	c := m.GetConnection()
	d.plan.Fresh, d.plan.CloseAfter, d.plan.Affinity = c.GetFresh(), c.GetCloseAfter(), c.GetAffinity()
	if c != nil && c.Affinity != nil && !isAffinity(c.GetAffinity()) {
		d.wrong("options.connection.affinity", "it is not 1 to %d visible ASCII characters", maxAffinityBytes)
	}
	switch v := m.GetProtocol().GetVersion(); v {
	case fetchgatev1.HttpVersion_HTTP_VERSION_UNSPECIFIED:
	case fetchgatev1.HttpVersion_HTTP_VERSION_1_1:
		d.plan.Version = fetch.HTTP1
	case fetchgatev1.HttpVersion_HTTP_VERSION_2:
		d.plan.Version = fetch.HTTP2
	default:
		d.notOffered("options.protocol.version", "this server speaks HTTP/1.1 and HTTP/2 to upstreams, not %v", v)
	}
	switch v := m.GetTls().GetMinimumVersion(); v {
	case fetchgatev1.TlsVersion_TLS_VERSION_UNSPECIFIED:
	case fetchgatev1.TlsVersion_TLS_VERSION_1_2:
		d.plan.TLS.MinVersion = max(d.plan.TLS.MinVersion, tls.VersionTLS12)
	case fetchgatev1.TlsVersion_TLS_VERSION_1_3:
		d.plan.TLS.MinVersion = max(d.plan.TLS.MinVersion, tls.VersionTLS13)
	default:
		d.notOffered("options.tls.minimum_version", "this server knows TLS 1.2 and 1.3, not %v", v)
	}
}

func isAffinity(s string) bool {
	if len(s) == 0 || len(s) > maxAffinityBytes {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r < '!' || r > '~' })
}

func (d *draft) body(m *fetchgatev1.Body) {
	if m == nil {
		return
	}
	encoded, err := body.Encode(m)
	if err != nil {
		path := "request.body"
		var bad *body.KindError
		if errors.As(err, &bad) && bad.Kind != "" {
			path = joinPath(path, bad.Kind)
		}
		d.wrong(path, "%v", err)
		return
	}
	if n := encoded.Source.Length(); n > d.limits.MaxRequestBodyBytes {
		d.wrong("request.body", "it has %d bytes, at most %d are allowed", n, d.limits.MaxRequestBodyBytes)
		return
	}
	d.plan.Source = encoded.Source
	if encoded.ContentType != "" {
		d.plan.Fields = append(d.plan.Fields, fetch.Field{Name: "Content-Type", Value: []byte(encoded.ContentType)})
	}
}

func (d *draft) report(m *fetchgatev1.FetchOptions) {
	switch v := m.GetReport(); v {
	case fetchgatev1.ReportDetail_REPORT_DETAIL_UNSPECIFIED, fetchgatev1.ReportDetail_REPORT_DETAIL_SUMMARY:
	case fetchgatev1.ReportDetail_REPORT_DETAIL_FULL:
		d.plan.FullReport = true
	default:
		d.notOffered("options.report", "this server knows SUMMARY and FULL, not %v", v)
	}
}
