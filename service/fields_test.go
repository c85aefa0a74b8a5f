package service_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// Every field that a request can hold is either carried out or refused by its
// path. The test walks the descriptors, so that a field which is new in the
// contract fails it until somebody has decided which.

type request = fetchgatev1.FetchRequest

// carried holds, for each field that is carried out, what sets it. The fetch
// with it must differ from the fetch without it in what the upstream received,
// what the caller received, or the report.
var carried = map[protoreflect.FullName]func(*request){
	"fetchgate.v1.FetchRequest.request": func(r *request) { r.Request.Url += "?again" },
	"fetchgate.v1.FetchRequest.options": func(r *request) { r.Options.Report = full() },

	"fetchgate.v1.HttpRequest.method":              func(r *request) { r.Request.Method = "PUT" },
	"fetchgate.v1.HttpRequest.url":                 func(r *request) { r.Request.Url += "elsewhere" },
	"fetchgate.v1.HttpRequest.raw_target":          func(r *request) { r.Request.RawTarget = "/raw/%2e" },
	"fetchgate.v1.HttpRequest.params":              func(r *request) { r.Request.Params = params("n", "v") },
	"fetchgate.v1.HttpRequest.headers":             func(r *request) { r.Request.Headers = headers("X-Sample", "v") },
	"fetchgate.v1.HttpRequest.omit_default_fields": func(r *request) { r.Request.OmitDefaultFields = []string{"User-Agent"} },
	"fetchgate.v1.HttpRequest.body":                func(r *request) { r.Request.Body = raw("x") },

	"fetchgate.v1.QueryParam.name":   func(r *request) { r.Request.Params = params("n", "") },
	"fetchgate.v1.QueryParam.value":  func(r *request) { r.Request.Params = params("", "v") },
	"fetchgate.v1.HeaderField.name":  func(r *request) { r.Request.Headers = headers("X-Sample", "") },
	"fetchgate.v1.HeaderField.value": func(r *request) { r.Request.Headers = headers("Accept", "text/x-sample") },
	"fetchgate.v1.Body.form":         func(r *request) { r.Request.Body = form() },
	"fetchgate.v1.Body.json":         func(r *request) { r.Request.Body = &fetchgatev1.Body{Kind: &fetchgatev1.Body_Json{Json: []byte("{}")}} },
	"fetchgate.v1.Body.raw":          func(r *request) { r.Request.Body = raw("x") },
	"fetchgate.v1.FormBody.fields":   func(r *request) { r.Request.Body = form(params("n", "v")...) },

	"fetchgate.v1.FetchOptions.credentials": func(r *request) { r.Options.Credentials = bearer("b") },
	"fetchgate.v1.FetchOptions.timeouts":    func(r *request) { r.Options.Timeouts = &fetchgatev1.Timeouts{Total: seconds(7)} },
	"fetchgate.v1.FetchOptions.tls":         requireTLS13,
	"fetchgate.v1.FetchOptions.connection":  func(r *request) { r.Options.Connection = &fetchgatev1.ConnectionOptions{Fresh: proto.Bool(true)} },
	"fetchgate.v1.FetchOptions.protocol":    requireH2,
	"fetchgate.v1.FetchOptions.response":    func(r *request) { r.Options.Response = &fetchgatev1.ResponseOptions{Decode: proto.Bool(false)} },
	"fetchgate.v1.FetchOptions.report":      func(r *request) { r.Options.Report = full() },
	"fetchgate.v1.FetchOptions.verbatim":    func(r *request) { r.Options.Verbatim = proto.Bool(true) },

	"fetchgate.v1.Timeouts.dns":             timeouts(func(t *fetchgatev1.Timeouts) { t.Dns = seconds(7) }),
	"fetchgate.v1.Timeouts.connect":         timeouts(func(t *fetchgatev1.Timeouts) { t.Connect = seconds(7) }),
	"fetchgate.v1.Timeouts.tls":             timeouts(func(t *fetchgatev1.Timeouts) { t.Tls = seconds(7) }),
	"fetchgate.v1.Timeouts.response_header": timeouts(func(t *fetchgatev1.Timeouts) { t.ResponseHeader = seconds(7) }),
	"fetchgate.v1.Timeouts.idle_read":       timeouts(func(t *fetchgatev1.Timeouts) { t.IdleRead = seconds(7) }),
	"fetchgate.v1.Timeouts.write":           timeouts(func(t *fetchgatev1.Timeouts) { t.Write = seconds(7) }),
	"fetchgate.v1.Timeouts.pool":            timeouts(func(t *fetchgatev1.Timeouts) { t.Pool = seconds(7) }),
	"fetchgate.v1.Timeouts.attempt":         timeouts(func(t *fetchgatev1.Timeouts) { t.Attempt = seconds(7) }),
	"fetchgate.v1.Timeouts.total":           timeouts(func(t *fetchgatev1.Timeouts) { t.Total = seconds(7) }),
	"fetchgate.v1.Timeouts.min_throughput_bytes_per_second": timeouts(func(t *fetchgatev1.Timeouts) {
		t.MinThroughputBytesPerSecond = proto.Int64(7)
	}),
	"google.protobuf.Duration.seconds": timeouts(func(t *fetchgatev1.Timeouts) { t.Total = &durationpb.Duration{Seconds: 7} }),
	"google.protobuf.Duration.nanos":   timeouts(func(t *fetchgatev1.Timeouts) { t.Dns = &durationpb.Duration{Nanos: 7e8} }),

	"fetchgate.v1.TlsOptions.minimum_version": requireTLS13,
	"fetchgate.v1.ConnectionOptions.affinity": func(r *request) {
		r.Options.Connection = &fetchgatev1.ConnectionOptions{Affinity: proto.String("mine")}
	},
	"fetchgate.v1.ConnectionOptions.fresh": func(r *request) {
		r.Options.Connection = &fetchgatev1.ConnectionOptions{Fresh: proto.Bool(true)}
	},
	"fetchgate.v1.ConnectionOptions.close_after": func(r *request) {
		r.Options.Connection = &fetchgatev1.ConnectionOptions{CloseAfter: proto.Bool(true)}
	},
	"fetchgate.v1.ProtocolOptions.version": requireH2,
	"fetchgate.v1.ResponseOptions.max_body_bytes": func(r *request) {
		r.Options.Response = &fetchgatev1.ResponseOptions{MaxBodyBytes: proto.Int64(1)}
	},
	"fetchgate.v1.ResponseOptions.decode": func(r *request) {
		r.Options.Response = &fetchgatev1.ResponseOptions{Decode: proto.Bool(false)}
	},
	"fetchgate.v1.ResponseOptions.interim": func(r *request) {
		r.Options.Response = &fetchgatev1.ResponseOptions{Interim: proto.Bool(true)}
	},
	"fetchgate.v1.ResponseOptions.max_head_bytes": func(r *request) {
		r.Options.Response = &fetchgatev1.ResponseOptions{MaxHeadBytes: proto.Int32(1)}
	},
	"fetchgate.v1.ResponseOptions.max_head_fields": func(r *request) {
		r.Options.Response = &fetchgatev1.ResponseOptions{MaxHeadFields: proto.Int32(1)}
	},
}

// staged is a field whose effect is seen only in a certain scene.
type staged struct {
	// stage makes the scene, for the fetch without the field and the one with.
	stage func(*fieldWorld, *request)
	set   func(*fieldWorld, *request)
}

// carriedOnStage holds such fields by their path.
var carriedOnStage = map[string]staged{
	"request.cookies[0]":                     {atRoot, setCookie(func(*fetchgatev1.Cookie) {})},
	"request.cookies[0].name":                {withCookie, setCookie(func(c *fetchgatev1.Cookie) { c.Name = []byte("other") })},
	"request.cookies[0].value":               {withCookie, setCookie(func(c *fetchgatev1.Cookie) { c.Value = []byte("other") })},
	"request.cookies[0].domain":              {toSubdomain, setCookie(func(c *fetchgatev1.Cookie) { c.Domain = parentHost })},
	"request.cookies[0].path":                {withCookie, setCookie(func(c *fetchgatev1.Cookie) { c.Path = []byte("/elsewhere") })},
	"request.cookies[0].secure":              {withCookieOverHTTP, setCookie(func(c *fetchgatev1.Cookie) { c.Secure = true })},
	"request.cookies[0].http_only":           {withCookie, setCookie(func(c *fetchgatev1.Cookie) { c.HttpOnly = true })},
	"request.cookies[0].expire_time":         {withCookie, setCookie(func(c *fetchgatev1.Cookie) { c.ExpireTime = &timestamppb.Timestamp{} })},
	"request.cookies[0].expire_time.seconds": {withCookie, setCookie(func(c *fetchgatev1.Cookie) { c.ExpireTime = &timestamppb.Timestamp{Seconds: 1} })},
	"request.cookies[0].expire_time.nanos": {
		func(w *fieldWorld, r *request) {
			withCookie(w, r)
			r.Request.Cookies[0].ExpireTime = &timestamppb.Timestamp{Seconds: 1 << 32}
		},
		setCookie(func(c *fetchgatev1.Cookie) { c.ExpireTime = &timestamppb.Timestamp{Seconds: 1 << 32, Nanos: 7e8} }),
	},
	"request.cookies[0].host_only": {
		func(w *fieldWorld, r *request) {
			toSubdomain(w, r)
			r.Request.Cookies[0].Domain = parentHost
		},
		setCookie(func(c *fetchgatev1.Cookie) { c.HostOnly = true }),
	},
	"request.cookies[0].same_site": {withCookie, setCookie(func(c *fetchgatev1.Cookie) { c.SameSite = fetchgatev1.SameSite_SAME_SITE_LAX })},

	"request.trailers[0]":       {withBody, setTrailer("X-Sample", "v")},
	"request.trailers[0].name":  {withBody, setTrailer("X-Sample", "")},
	"request.trailers[0].value": {withTrailer, setTrailer("X-Sample", "other")},

	"options.protocol.expect_continue": {withBody, expectContinue(nil)},
	// What is above the maximum is lowered to it.
	"options.protocol.continue_timeout":         {expecting, expectContinue(seconds(31))},
	"options.protocol.continue_timeout.seconds": {expecting, expectContinue(seconds(31))},
	"options.protocol.continue_timeout.nanos":   {expecting, expectContinue(&durationpb.Duration{Seconds: 30, Nanos: 1})},
	"options.response.chunk_boundaries": {to("/chunks"), func(_ *fieldWorld, r *request) {
		r.Options.Response = &fetchgatev1.ResponseOptions{ChunkBoundaries: proto.Bool(true)}
	}},

	"options.credentials[0]":                                    {atRoot, setCredential(bearer("b")[0])},
	"options.credentials[0].named":                              {atRoot, setCredential(naming("", "held").Options.Credentials[0])},
	"options.credentials[0].named.name":                         {withCredential(naming("", "other").Options.Credentials[0]), setCredential(naming("", "held").Options.Credentials[0])},
	"options.credentials[0].basic":                              {atRoot, setCredential(basicPair("u", "p"))},
	"options.credentials[0].basic.username":                     {withCredential(basicPair("u", "p")), setCredential(basicPair("other", "p"))},
	"options.credentials[0].basic.password":                     {withCredential(basicPair("u", "p")), setCredential(basicPair("u", "other"))},
	"options.credentials[0].bearer":                             {atRoot, setCredential(bearer("b")[0])},
	"options.credentials[0].bearer.token":                       {withCredential(bearer("b")[0]), setCredential(bearer("other")[0])},
	"options.credentials[0].api_key":                            {atRoot, setCredential(keyIn("X-Key", "", "k", ""))},
	"options.credentials[0].api_key.header":                     {withCredential(keyIn("X-Key", "", "k", "")), setCredential(keyIn("X-Other", "", "k", ""))},
	"options.credentials[0].api_key.query_param":                {withCredential(keyIn("X-Key", "", "k", "")), setCredential(keyIn("", "key", "k", ""))},
	"options.credentials[0].api_key.key":                        {withCredential(keyIn("X-Key", "", "k", "")), setCredential(keyIn("X-Key", "", "other", ""))},
	"options.credentials[0].api_key.prefix":                     {withCredential(keyIn("X-Key", "", "k", "")), setCredential(keyIn("X-Key", "", "k", "Token "))},
	"options.credentials[0].client_certificate":                 {atRoot, ownCertificate(0)},
	"options.credentials[0].client_certificate.certificate_pem": {ownCertificate(0), ownCertificate(1)},
	"options.credentials[0].client_certificate.key_pem":         {ownCertificate(0), ownCertificate(1)},

	"options.retry":              {to("/status/503"), setRetry(func(p *fetchgatev1.RetryPolicy) { p.MaxAttempts = proto.Int32(1) })},
	"options.retry.max_attempts": {to("/status/503"), setRetry(func(p *fetchgatev1.RetryPolicy) { p.MaxAttempts = proto.Int32(2) })},
	"options.retry.conditions":   {to("/status/500"), retryOn(fetchgatev1.RetryCondition_RETRY_CONDITION_FIVE_XX)},
	"options.retry.statuses": {
		func(w *fieldWorld, r *request) {
			to("/status/404")(w, r)
			retryOn(fetchgatev1.RetryCondition_RETRY_CONDITION_RETRIABLE_STATUS_CODES)(w, r)
			r.Options.Retry.Statuses = []int32{999}
		},
		setRetry(func(p *fetchgatev1.RetryPolicy) { p.Statuses = []int32{404} }),
	},
	"options.retry.response_headers": {
		func(w *fieldWorld, r *request) {
			atRoot(w, r)
			retryOn(fetchgatev1.RetryCondition_RETRY_CONDITION_RETRIABLE_HEADERS)(w, r)
			r.Options.Retry.ResponseHeaders = []string{"X-Absent"}
		},
		setRetry(func(p *fetchgatev1.RetryPolicy) { p.ResponseHeaders = []string{"X-A"} }),
	},
	"options.retry.methods": {
		func(w *fieldWorld, r *request) {
			to("/status/503")(w, r)
			r.Request.Method = "POST"
		},
		setRetry(func(p *fetchgatev1.RetryPolicy) { p.Methods = []string{"POST"} }),
	},
	"options.retry.counts":         {to("/status/503"), counts(func(c *fetchgatev1.RetryCounts) { c.Status = proto.Int32(0) })},
	"options.retry.counts.connect": {toNobody, counts(func(c *fetchgatev1.RetryCounts) { c.Connect = proto.Int32(0) })},
	"options.retry.counts.read":    {to("/reset"), counts(func(c *fetchgatev1.RetryCounts) { c.Read = proto.Int32(0) })},
	"options.retry.counts.status":  {to("/status/503"), counts(func(c *fetchgatev1.RetryCounts) { c.Status = proto.Int32(1) })},
	"options.retry.counts.other":   {toBroken, counts(func(c *fetchgatev1.RetryCounts) { c.Other = proto.Int32(0) })},

	"options.retry.backoff_base":         {evenly, setRetry(func(p *fetchgatev1.RetryPolicy) { p.BackoffBase = millis(5) })},
	"options.retry.backoff_base.nanos":   {evenly, setRetry(func(p *fetchgatev1.RetryPolicy) { p.BackoffBase = millis(5) })},
	"options.retry.backoff_base.seconds": {evenlyUpTo(30), setRetry(func(p *fetchgatev1.RetryPolicy) { p.BackoffBase = seconds(1) })},
	"options.retry.backoff_factor":       {evenly, setRetry(func(p *fetchgatev1.RetryPolicy) { p.BackoffFactor = proto.Float64(1) })},
	"options.retry.backoff_max":          {evenly, setRetry(func(p *fetchgatev1.RetryPolicy) { p.BackoffMax = millis(5) })},
	"options.retry.backoff_max.nanos":    {evenly, setRetry(func(p *fetchgatev1.RetryPolicy) { p.BackoffMax = millis(5) })},
	"options.retry.backoff_max.seconds":  {evenlyUpTo(5), setRetry(func(p *fetchgatev1.RetryPolicy) { p.BackoffMax = seconds(1) })},
	"options.retry.backoff_jitter":       {evenly, setRetry(func(p *fetchgatev1.RetryPolicy) { p.BackoffJitter = proto.Float64(1) })},

	"options.retry.respect_retry_after": {to("/after/60"), setRetry(func(p *fetchgatev1.RetryPolicy) { p.RespectRetryAfter = proto.Bool(false) })},
	"options.retry.retry_after_max":     {afterTooLong, setRetry(func(p *fetchgatev1.RetryPolicy) { p.RetryAfterMax = seconds(1) })},
	"options.retry.retry_after_max.seconds": {afterTooLong, setRetry(func(p *fetchgatev1.RetryPolicy) {
		p.RetryAfterMax = seconds(1)
	})},
	"options.retry.retry_after_max.nanos": {
		// What is above the maximum by a nanosecond is lowered to it.
		func(w *fieldWorld, r *request) {
			atRoot(w, r)
			r.Options.Retry = &fetchgatev1.RetryPolicy{RetryAfterMax: seconds(300)}
		},
		setRetry(func(p *fetchgatev1.RetryPolicy) { p.RetryAfterMax = &durationpb.Duration{Seconds: 300, Nanos: 1} }),
	},
	"options.retry.exhausted": {to("/status/503"), setRetry(func(p *fetchgatev1.RetryPolicy) {
		p.Exhausted = fetchgatev1.RetriesExhausted_RETRIES_EXHAUSTED_FAILURE.Enum()
	})},

	"options.redirect":               {toOtherHost, setRedirect(func(p *fetchgatev1.RedirectPolicy) { p.MaxRedirects = proto.Int32(0) })},
	"options.redirect.max_redirects": {toOtherHost, setRedirect(func(p *fetchgatev1.RedirectPolicy) { p.MaxRedirects = proto.Int32(0) })},
	"options.redirect.profile": {
		func(w *fieldWorld, r *request) {
			toOtherHost(w, r)
			r.Request.Method = "POST"
		},
		setRedirect(func(p *fetchgatev1.RedirectPolicy) {
			p.Profile = fetchgatev1.RedirectProfile_REDIRECT_PROFILE_URLLIB3.Enum()
		}),
	},
	"options.redirect.keep_fields": {
		func(w *fieldWorld, r *request) {
			toOtherHost(w, r)
			r.Request.Headers = headers("X-Sample", "v")
		},
		setRedirect(func(p *fetchgatev1.RedirectPolicy) { p.KeepFields = []string{"x-sample"} }),
	},
	"options.redirect.remove_fields": {
		func(w *fieldWorld, r *request) {
			toOtherHost(w, r)
			r.Request.Headers = headers("Accept", "text/x-sample")
		},
		setRedirect(func(p *fetchgatev1.RedirectPolicy) { p.RemoveFields = []string{"accept"} }),
	},
}

// echoed are the fields that an answer repeats, so that it shows nothing: what
// the upstream receives has to differ.
var echoed = []string{
	"request.cookies[0]", "request.cookies[0].name", "request.cookies[0].value", "request.cookies[0].domain", "request.cookies[0].path",
	"request.cookies[0].secure", "request.cookies[0].expire_time", "request.cookies[0].expire_time.seconds", "request.cookies[0].host_only",
	"options.retry", "options.retry.max_attempts", "options.redirect", "options.redirect.max_redirects",
}

// audited are the fields that change nothing that an upstream or a caller sees,
// but the audit record, and what it then says.
var audited = map[string]string{
	"options.labels": `"labels":{"k":"v"}`,
}

// The host of a scene in which cookies go to a subdomain as well.
const (
	parentHost = "upstream.test"
	subHost    = "sub." + parentHost
)

func to(path string) func(*fieldWorld, *request) {
	return func(w *fieldWorld, r *request) { r.Request.Url = w.secure.URL(path) }
}

func atRoot(w *fieldWorld, r *request) { to("/")(w, r) }

func toOtherHost(w *fieldWorld, r *request) { to("/to?"+w.secure.URLOf(parentHost, "/"))(w, r) }

func toNobody(w *fieldWorld, r *request) { r.Request.Url = "http://" + w.closed + "/" }

func toBroken(w *fieldWorld, r *request) {
	r.Request.Url = "https://" + w.broken.Addr().String() + "/"
}

func withCookie(w *fieldWorld, r *request) {
	atRoot(w, r)
	setCookie(func(*fetchgatev1.Cookie) {})(w, r)
}

func withCookieOverHTTP(w *fieldWorld, r *request) {
	withCookie(w, r)
	r.Request.Url = w.plain.URL("/")
}

// toSubdomain has a cookie for the first of two hosts.
func toSubdomain(w *fieldWorld, r *request) {
	withCookie(w, r)
	r.Request.Url = w.secure.URLOf(parentHost, "/to?"+w.secure.URLOf(subHost, "/"))
}

func setCredential(c *fetchgatev1.Credential) func(*fieldWorld, *request) {
	return func(_ *fieldWorld, r *request) { r.Options.Credentials = []*fetchgatev1.Credential{c} }
}

func withCredential(c *fetchgatev1.Credential) func(*fieldWorld, *request) {
	return func(w *fieldWorld, r *request) {
		atRoot(w, r)
		setCredential(c)(w, r)
	}
}

func basicPair(user, password string) *fetchgatev1.Credential {
	return &fetchgatev1.Credential{Kind: &fetchgatev1.Credential_Basic{Basic: &fetchgatev1.BasicCredential{Username: []byte(user), Password: []byte(password)}}}
}

// keyIn is an API key in a header field or a query parameter.
func keyIn(header, param, key, prefix string) *fetchgatev1.Credential {
	k := &fetchgatev1.ApiKeyCredential{Key: []byte(key), Prefix: prefix, Place: &fetchgatev1.ApiKeyCredential_Header{Header: header}}
	if param != "" {
		k.Place = &fetchgatev1.ApiKeyCredential_QueryParam{QueryParam: param}
	}
	return &fetchgatev1.Credential{Kind: &fetchgatev1.Credential_ApiKey{ApiKey: k}}
}

// ownCertificate sets one of the certificates of the world: each has connections
// of its own, and the upstream answers with its name.
func ownCertificate(i int) func(*fieldWorld, *request) {
	return func(w *fieldWorld, r *request) {
		r.Request.Url = w.secure.URL("/")
		r.Options.Credentials = []*fetchgatev1.Credential{{Kind: &fetchgatev1.Credential_ClientCertificate{ClientCertificate: w.own[i]}}}
	}
}

func setCookie(change func(*fetchgatev1.Cookie)) func(*fieldWorld, *request) {
	return func(_ *fieldWorld, r *request) {
		if r.Request.Cookies == nil {
			r.Request.Cookies = []*fetchgatev1.Cookie{{Name: []byte("name"), Value: []byte("value")}}
		}
		change(r.Request.Cookies[0])
	}
}

func withBody(w *fieldWorld, r *request) {
	atRoot(w, r)
	r.Request.Method, r.Request.Body = "POST", raw("x")
}

func withTrailer(w *fieldWorld, r *request) {
	withBody(w, r)
	setTrailer("X-Sample", "v")(w, r)
}

func setTrailer(name, value string) func(*fieldWorld, *request) {
	return func(_ *fieldWorld, r *request) { r.Request.Trailers = headers(name, value) }
}

// expecting waits for 100 Continue as long as it may.
func expecting(w *fieldWorld, r *request) {
	withBody(w, r)
	expectContinue(seconds(30))(w, r)
}

func expectContinue(timeout *durationpb.Duration) func(*fieldWorld, *request) {
	return func(_ *fieldWorld, r *request) {
		r.Options.Protocol = &fetchgatev1.ProtocolOptions{ExpectContinue: proto.Bool(true), ContinueTimeout: timeout}
	}
}

// evenly tries three times, with waits of which nothing is random.
func evenly(w *fieldWorld, r *request) {
	to("/status/503")(w, r)
	r.Options.Retry = &fetchgatev1.RetryPolicy{BackoffJitter: proto.Float64(0)}
}

func evenlyUpTo(most int) func(*fieldWorld, *request) {
	return func(w *fieldWorld, r *request) {
		evenly(w, r)
		r.Options.Retry.BackoffMax = millis(most)
	}
}

// afterTooLong is an upstream that asks to wait longer than the caller would.
func afterTooLong(w *fieldWorld, r *request) {
	to("/after/1")(w, r)
	r.Options.Retry = &fetchgatev1.RetryPolicy{MaxAttempts: proto.Int32(2), RetryAfterMax: millis(500)}
}

func setRetry(change func(*fetchgatev1.RetryPolicy)) func(*fieldWorld, *request) {
	return func(_ *fieldWorld, r *request) {
		if r.Options.Retry == nil {
			r.Options.Retry = &fetchgatev1.RetryPolicy{}
		}
		change(r.Options.Retry)
	}
}

func retryOn(conditions ...fetchgatev1.RetryCondition) func(*fieldWorld, *request) {
	return setRetry(func(p *fetchgatev1.RetryPolicy) { p.Conditions = conditions })
}

func counts(set func(*fetchgatev1.RetryCounts)) func(*fieldWorld, *request) {
	return setRetry(func(p *fetchgatev1.RetryPolicy) {
		p.Counts = &fetchgatev1.RetryCounts{}
		set(p.Counts)
	})
}

func setRedirect(change func(*fetchgatev1.RedirectPolicy)) func(*fieldWorld, *request) {
	return func(_ *fieldWorld, r *request) {
		r.Options.Redirect = &fetchgatev1.RedirectPolicy{}
		change(r.Options.Redirect)
	}
}

func millis(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Millisecond) }

func full() *fetchgatev1.ReportDetail { return fetchgatev1.ReportDetail_REPORT_DETAIL_FULL.Enum() }

func seconds(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Second) }

func params(name, value string) []*fetchgatev1.QueryParam {
	return []*fetchgatev1.QueryParam{{Name: name, Value: value}}
}

func headers(name, value string) []*fetchgatev1.HeaderField {
	return []*fetchgatev1.HeaderField{{Name: name, Value: []byte(value)}}
}

func raw(s string) *fetchgatev1.Body {
	return &fetchgatev1.Body{Kind: &fetchgatev1.Body_Raw{Raw: []byte(s)}}
}

func form(fields ...*fetchgatev1.QueryParam) *fetchgatev1.Body {
	return &fetchgatev1.Body{Kind: &fetchgatev1.Body_Form{Form: &fetchgatev1.FormBody{Fields: fields}}}
}

func timeouts(set func(*fetchgatev1.Timeouts)) func(*request) {
	return func(r *request) {
		r.Options.Timeouts = &fetchgatev1.Timeouts{}
		set(r.Options.Timeouts)
	}
}

func requireTLS13(r *request) {
	r.Options.Tls = &fetchgatev1.TlsOptions{MinimumVersion: fetchgatev1.TlsVersion_TLS_VERSION_1_3.Enum()}
}

func requireH2(r *request) {
	r.Options.Protocol = &fetchgatev1.ProtocolOptions{Version: fetchgatev1.HttpVersion_HTTP_VERSION_2.Enum()}
}

// fieldWorld is where fields show what they do: a fetchgate and the upstreams
// that it may reach.
type fieldWorld struct {
	*fetchtest.Fetchgate
	secure, plain *fetchtest.Recorder
	broken        *fetchtest.Upstream // breaks off its TLS handshakes
	closed        string              // an address that nobody listens on
	audit         record
	own           [2]*fetchgatev1.ClientCertificateCredential
}

func newFieldWorld(t *testing.T) *fieldWorld {
	authority := fetchtest.NewAuthority(t)
	certificate := authority.Issue(fetchtest.IssueOptions{Names: []string{"127.0.0.1", parentHost, "*." + parentHost}})
	w := &fieldWorld{
		secure: fetchtest.NewRecorder(t, fetchtest.RecorderOptions{
			Listen: fetchtest.Listen{TLS: &tls.Config{
				Certificates: []tls.Certificate{certificate},
				MaxVersion:   tls.VersionTLS12, NextProtos: []string{"http/1.1"},
				ClientAuth: tls.RequestClientCert,
			}},
			Respond: fieldAnswer,
		}),
		plain:  fetchtest.NewRecorder(t, fetchtest.RecorderOptions{}),
		broken: fetchtest.NewScript(t, fetchtest.Listen{}, readBytes(1), fetchtest.Reset()),
		closed: closedAddress(t),
		audit:  make(record, 1000), // so that nobody has to read it
	}
	for i := range w.own {
		cert, key := fetchtest.WriteCertificate(t, authority.Issue(fetchtest.IssueOptions{CommonName: fmt.Sprint("own ", i)}))
		w.own[i] = &fetchgatev1.ClientCertificateCredential{CertificatePem: readFile(t, cert), KeyPem: readFile(t, key)}
	}
	v := newVault(t)
	v.bearer("held", "held-token", boundTo("", w.secure))
	v.bearer("other", "other-token", boundTo("", w.secure))
	dns := fetchtest.NewDNS(t)
	dns.Set(parentHost, "127.0.0.1")
	dns.Set(subHost, "127.0.0.1")
	w.Fetchgate = fetchtest.Start(t, fetchtest.Options{
		Allow: []string{
			fetchtest.OriginOf(w.secure.Upstream), w.secure.URLOf(parentHost, ""), w.secure.URLOf(subHost, ""),
			fetchtest.OriginOf(w.plain.Upstream), "https://" + w.broken.Addr().String(), "http://" + w.closed,
		},
		Trust: authority, DNS: dns, Audit: w.audit,
		Extra: v.yaml.String() + "limits:\n  retry_budget_per_second: 1000\n", // which is not a field of a request
	})
	return w
}

// fieldAnswer answers in such a way that every option can be seen: with an
// interim response and a coded body, or with what the target asks for: "/to?URL"
// a redirect, "/status/N" a status, "/after/N" a wait of N seconds, "/chunks" a
// body in chunks, "/reset" the end of the connection.
func fieldAnswer(asked *fetchtest.Recorded) fetchtest.Step {
	path, query, _ := strings.Cut(asked.Target, "?")
	kind, argument, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch kind {
	case "to":
		return fetchtest.Answer(302, "", "Location: "+query)
	case "status":
		status, _ := strconv.Atoi(argument)
		return fetchtest.Answer(status, "")
	case "after":
		return fetchtest.Answer(503, "", "Retry-After: "+argument)
	case "chunks":
		return fetchtest.Write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n")
	case "reset":
		return fetchtest.Reset()
	}
	return fetchtest.Steps(
		fetchtest.Write("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
		fetchtest.Answer(200, gzipped([]byte("decoded")), "Content-Encoding: gzip", "X-A: 1", "X-Certificate: "+shownName(asked)),
	)
}

// shownName is the name in the client certificate that a request came with.
func shownName(asked *fetchtest.Recorded) string {
	if asked.TLS == nil || len(asked.TLS.PeerCertificates) == 0 {
		return "none"
	}
	return asked.TLS.PeerCertificates[0].Subject.CommonName
}

// received is how many requests came to each upstream.
func (w *fieldWorld) received() [2]int {
	return [2]int{len(w.secure.Requests()), len(w.plain.Requests())}
}

// since renders the requests that came after.
func (w *fieldWorld) since(before [2]int) string {
	var all strings.Builder
	for i, u := range []*fetchtest.Recorder{w.secure, w.plain} {
		for _, r := range u.Requests()[before[i]:] {
			all.Write(r.Raw)
		}
	}
	return all.String()
}

// base is the request that fields are added to.
func (w *fieldWorld) base() *request {
	return &request{
		Request: &fetchgatev1.HttpRequest{Url: w.secure.URL("/")},
		Options: &fetchgatev1.FetchOptions{Report: full()},
	}
}

// how returns how the last field of a path is carried out, and false if it is
// not, or what is above it is not.
func how(f []protoreflect.FieldDescriptor) (staged, bool) {
	var last staged
	for i, fd := range f {
		onStage, is := carriedOnStage[pathOf(f[:i+1])]
		set := carried[fd.FullName()]
		switch {
		case is:
			last = onStage
		case set != nil:
			last = staged{atRoot, func(_ *fieldWorld, r *request) { set(r) }}
		default:
			return staged{}, false
		}
	}
	return last, true
}

// TestEveryFieldIsCarriedOutOrRefused is the differential test of the contract.
func TestEveryFieldIsCarriedOutOrRefused(t *testing.T) {
	seen := map[string]bool{}
	refuses := newFieldWorld(t)
	for _, f := range fieldsOf((&request{}).ProtoReflect().Descriptor(), nil) {
		path := pathOf(f)
		seen[path], seen[string(f[len(f)-1].FullName())] = true, true
		t.Run(path, func(t *testing.T) {
			field, isCarried := how(f)
			switch {
			case audited[path] != "":
				checkAudited(t, newFieldWorld(t), f, audited[path])
			case isCarried:
				t.Parallel()
				for rpc, observe := range observers {
					if slices.Contains(echoed, path) {
						observe = observe.onWire
					}
					checkCarried(t, rpc, observe, field)
				}
			default:
				checkRefused(t, refuses.Fetchgate, refuses.base(), f)
			}
		})
	}
	for name := range carried {
		if !seen[string(name)] {
			t.Errorf("there is no field %s", name)
		}
	}
	for _, path := range slices.Concat(echoed, slices.Collect(maps.Keys(carriedOnStage)), slices.Collect(maps.Keys(audited))) {
		if !seen[path] {
			t.Errorf("there is no field %s", path)
		}
	}
}

// checkCarried fetches with and without a field and compares all that can be
// seen of the two. Two fetches without must not differ, or it would show nothing
// that the one with does.
func checkCarried(t *testing.T, rpc string, observe observer, field staged) {
	w := newFieldWorld(t) // of its own, or a connection would tell of the RPC before
	without := w.base()
	field.stage(w, without)
	with := proto.CloneOf(without)
	field.set(w, with)
	if proto.Equal(with, without) {
		// The field is in the base: what is without it is the default.
		without.Options.Report = nil
	}
	observe(t, w, without) // so that there is a connection to use again
	once, twice := observe(t, w, without), observe(t, w, without)
	if once != twice {
		t.Errorf("%s: two fetches without the field differ\n%s\n%s", rpc, once, twice)
	}
	if once == observe(t, w, with) {
		t.Errorf("%s: nothing differs with the field\n%s", rpc, once)
	}
}

// checkAudited sets a field by its descriptor and wants that nothing changes but
// the audit record, which then says so.
func checkAudited(t *testing.T, w *fieldWorld, f []protoreflect.FieldDescriptor, says string) {
	with := w.base()
	setField(with.ProtoReflect(), f)
	for rpc, observe := range observers {
		observe(t, w, w.base())
		w.audit.next(t)
		without := observe(t, w, w.base())
		if line := w.audit.next(t); strings.Contains(line, says) {
			t.Errorf("%s: without the field the audit record says %s", rpc, line)
		}
		if got := observe(t, w, with); got != without {
			t.Errorf("%s: it is not as without the field\n%s\n%s", rpc, without, got)
		}
		if line := w.audit.next(t); !strings.Contains(line, says) {
			t.Errorf("%s: the audit record says %s, want %s in it", rpc, line, says)
		}
	}
}

// record takes an audit record.
type record chan string

func (r record) Write(lines []byte) (int, error) {
	r <- string(lines)
	return len(lines), nil
}

// next is what was written of the next fetch.
func (r record) next(t *testing.T) string {
	t.Helper()
	select {
	case line := <-r:
		return line
	case <-within(t).Done():
		t.Fatal("the audit record says nothing of the fetch")
		return ""
	}
}

// checkRefused sets a field by its descriptor and wants its path in the answer.
func checkRefused(t *testing.T, g *fetchtest.Fetchgate, base *request, f []protoreflect.FieldDescriptor) {
	m := proto.Clone(base).(*request)
	setField(m.ProtoReflect(), f)
	_, err := g.Fetch(context.Background(), m)
	wantRefused(t, "Fetch", err, pathOf(f))
	stream, err := g.StreamFetch(context.Background(), &fetchgatev1.StreamFetchRequest{Request: m.Request, Options: m.Options})
	if err == nil {
		_, err = stream.Recv()
	}
	wantRefused(t, "StreamFetch", err, pathOf(f))
}

func wantRefused(t *testing.T, rpc string, err error, path string) {
	t.Helper()
	var got []string
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				got = append(got, v.GetField())
			}
		}
	}
	if status.Code(err) != codes.InvalidArgument || !slices.Equal(got, []string{path}) {
		t.Errorf("%s: got %v %q, want InvalidArgument that names %q: the field is neither carried out nor refused", rpc, status.Code(err), got, path)
	}
}

// observer fetches and renders all that can be seen.
type observer func(*testing.T, *fieldWorld, *request) string

var observers = map[string]observer{"Fetch": observeFetch, "StreamFetch": observeStream}

// onWire leaves out what the caller sees.
func (o observer) onWire(t *testing.T, w *fieldWorld, m *request) string {
	t.Helper()
	before := w.received()
	o(t, w, m)
	return w.since(before)
}

func observeFetch(t *testing.T, w *fieldWorld, m *request) string {
	t.Helper()
	before := w.received()
	r, err := w.Fetch(within(t), m)
	if err != nil {
		return err.Error()
	}
	return steady(r, m) + w.since(before)
}

func observeStream(t *testing.T, w *fieldWorld, m *request) string {
	t.Helper()
	before := w.received()
	stream, err := w.StreamFetch(within(t), &fetchgatev1.StreamFetchRequest{Request: m.Request, Options: m.Options})
	if err != nil {
		return err.Error()
	}
	var all strings.Builder
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all.String() + w.since(before)
		}
		if err != nil {
			return all.String() + err.Error()
		}
		all.WriteString(steady(event, m))
	}
}

// steady renders an answer to asked without what differs between any two
// fetches. The waits between attempts are among it, unless asked says how random
// they are.
func steady(answer proto.Message, asked *request) string {
	answer = proto.Clone(answer)
	retry := asked.GetOptions().GetRetry()
	dropChanging(answer.ProtoReflect(), retry != nil && retry.BackoffJitter != nil)
	text, err := prototext.MarshalOptions{}.Marshal(answer)
	if err != nil {
		return err.Error()
	}
	// prototext puts in random spaces so that nobody relies on its output.
	return strings.Join(strings.Fields(string(text)), " ") + "\n"
}

func dropChanging(m protoreflect.Message, keepWaits bool) {
	limits := m.Descriptor().Name() == "EffectiveLimits"
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Name() == "fetch_id", fd.Name() == "wait" && !keepWaits:
			m.Clear(fd)
		case fd.Message() == nil, fd.IsMap(), fd.Name() == "wait", fd.Name() == "expire_time":
		case fd.Message().Name() == "Timestamp", fd.Message().Name() == "Duration" && !limits, fd.Message().Name() == "Timings":
			m.Clear(fd)
		case fd.IsList():
			for i := range v.List().Len() {
				dropChanging(v.List().Get(i).Message(), keepWaits)
			}
		default:
			dropChanging(v.Message(), keepWaits)
		}
		return true
	})
}

// fieldsOf returns the path of every field below d. A message that is a field of
// itself is entered once.
func fieldsOf(d protoreflect.MessageDescriptor, above []protoreflect.FieldDescriptor) [][]protoreflect.FieldDescriptor {
	var found [][]protoreflect.FieldDescriptor
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		path := append(slices.Clone(above), fd)
		found = append(found, path)
		if fd.Message() != nil && !fd.IsMap() && !slices.ContainsFunc(above, func(a protoreflect.FieldDescriptor) bool { return a.Message() == fd.Message() }) {
			found = append(found, fieldsOf(fd.Message(), path)...)
		}
	}
	return found
}

// pathOf is the path as a refusal names it.
func pathOf(f []protoreflect.FieldDescriptor) string {
	parts := make([]string, len(f))
	for i, fd := range f {
		parts[i] = string(fd.Name())
		if fd.IsList() && fd.Message() != nil {
			parts[i] += "[0]"
		}
	}
	return strings.Join(parts, ".")
}

// setField gives the last field of the path a value, and makes what is above.
func setField(m protoreflect.Message, f []protoreflect.FieldDescriptor) {
	fd, last := f[0], len(f) == 1
	switch {
	case fd.IsMap():
		m.Mutable(fd).Map().Set(protoreflect.ValueOfString("k").MapKey(), protoreflect.ValueOfString("v"))
	case fd.IsList() && fd.Message() != nil:
		list := m.Mutable(fd).List()
		if list.Len() == 0 {
			list.Append(list.NewElement())
		}
		if !last {
			setField(list.Get(0).Message(), f[1:])
		}
	case fd.IsList():
		m.Mutable(fd).List().Append(sampleOf(fd))
	case fd.Message() != nil:
		child := m.Mutable(fd).Message()
		if !last {
			setField(child, f[1:])
		}
	default:
		m.Set(fd, sampleOf(fd))
	}
}

func sampleOf(fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("sample")
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte("sample"))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(1)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(1)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(1)
	}
	panic(fmt.Sprintf("%s has a kind that the test does not know: %v", fd.FullName(), fd.Kind()))
}
