package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/telemetry"
)

// schema is the part of JSON Schema that audit.v1.schema.json uses; a keyword
// beyond it fails the test.
type schema struct {
	Schema      string             `json:"$schema"`
	ID          string             `json:"$id"`
	Title       string             `json:"title"`
	Description string             `json:"description"`
	Type        string             `json:"type"`
	Const       any                `json:"const"`
	Enum        []string           `json:"enum"`
	Pattern     string             `json:"pattern"`
	MaxLength   *int               `json:"maxLength"`
	Minimum     *float64           `json:"minimum"`
	Maximum     *float64           `json:"maximum"`
	MaxItems    *int               `json:"maxItems"`
	Items       *schema            `json:"items"`
	MaxProps    *int               `json:"maxProperties"`
	Additional  *schema            `json:"additionalProperties"`
	Properties  map[string]*schema `json:"properties"`
	Required    []string           `json:"required"`
}

func readSchema(t testing.TB) *schema {
	t.Helper()
	text, err := os.ReadFile("audit.v1.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	s := &schema{}
	if err := d.Decode(s); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *schema) check(path string, v any) error {
	if s.Const != nil && s.Const != v {
		return fmt.Errorf("%s: %v is not %v", path, v, s.Const)
	}
	switch v := v.(type) {
	case string:
		switch {
		case s.Type != "string":
			return fmt.Errorf("%s: a string", path)
		case s.Enum != nil && !slices.Contains(s.Enum, v):
			return fmt.Errorf("%s: %q is none of %q", path, v, s.Enum)
		case s.Pattern != "" && !regexp.MustCompile(s.Pattern).MatchString(v):
			return fmt.Errorf("%s: %q is not like %s", path, v, s.Pattern)
		case s.MaxLength != nil && utf8.RuneCountInString(v) > *s.MaxLength:
			return fmt.Errorf("%s: %q is too long", path, v)
		case s.Enum == nil && s.Pattern == "" && s.MaxLength == nil:
			return fmt.Errorf("%s: nothing bounds it", path)
		}
	case bool:
		if s.Type != "boolean" {
			return fmt.Errorf("%s: a boolean", path)
		}
	case float64:
		switch {
		case s.Const == nil && s.Type != "integer", v != math.Trunc(v):
			return fmt.Errorf("%s: the number %v", path, v)
		case s.Minimum != nil && v < *s.Minimum, s.Maximum != nil && v > *s.Maximum:
			return fmt.Errorf("%s: %v is out of range", path, v)
		}
	case []any:
		if s.Type != "array" || len(v) > *s.MaxItems {
			return fmt.Errorf("%s: a list of %d", path, len(v))
		}
		for i, item := range v {
			if err := s.Items.check(fmt.Sprintf("%s[%d]", path, i), item); err != nil {
				return err
			}
		}
	case map[string]any:
		return s.checkObject(path, v)
	default:
		return fmt.Errorf("%s: %v", path, v)
	}
	return nil
}

func (s *schema) checkObject(path string, v map[string]any) error {
	if s.Type != "object" || s.MaxProps != nil && len(v) > *s.MaxProps {
		return fmt.Errorf("%s: an object of %d", path, len(v))
	}
	for key, value := range v {
		of := s.Properties[key]
		if of == nil {
			of = s.Additional
		}
		if of == nil {
			return fmt.Errorf("%s: the schema does not have %q", path, key)
		}
		if err := of.check(path+"."+key, value); err != nil {
			return err
		}
	}
	for _, key := range s.Required {
		if _, has := v[key]; !has {
			return fmt.Errorf("%s: %q is missing", path, key)
		}
	}
	return nil
}

// keysOf returns the keys of a line in their order.
func keysOf(t testing.TB, line string) []string {
	t.Helper()
	var keys []string
	d := json.NewDecoder(strings.NewReader(line))
	depth, isKey := 0, true
	for {
		token, err := d.Token()
		if err == io.EOF {
			return keys
		}
		if err != nil {
			t.Fatal(err)
		}
		if delim, is := token.(json.Delim); is {
			if delim == '{' || delim == '[' {
				depth++
			} else if depth--; depth == 1 {
				isKey = true
			}
			continue
		}
		if depth == 1 {
			if isKey {
				keys = append(keys, token.(string))
			}
			isKey = !isKey
		}
	}
}

// checkLine fails unless line is one whole line by the schema.
func checkLine(t testing.TB, s *schema, line string) map[string]any {
	t.Helper()
	body, ended := strings.CutSuffix(line, "\n")
	if len(body) >= 4<<10 {
		t.Errorf("the line has %d bytes", len(line))
	}
	for i := range len(body) {
		if body[i] < ' ' || body[i] > '~' {
			t.Fatalf("byte %#x at %d (ended: %v) in %q", body[i], i, ended, body)
		}
	}
	var v map[string]any
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%v in %q", err, body)
	}
	if err := s.check("", v); err != nil {
		t.Errorf("%v in %q", err, body)
	}
	return v
}

// Every line has exactly the keys of the schema, in its order.
func TestLinesAreBySchema(t *testing.T) {
	s := readSchema(t)
	reports := corpus()
	lines := written(t, telemetry.Options{Configuration: configuration(), Replica: "eu-1-7c9f"}, reports...)
	if len(lines) != len(reports) {
		t.Fatalf("%d lines for %d reports", len(lines), len(reports))
	}
	for i, line := range lines {
		if reports[i].Outcome == "" {
			line = strings.Replace(line, `"outcome":""`, `"outcome":"failure"`, 1)
		}
		checkLine(t, s, line)
		if keys := keysOf(t, line); !slices.Equal(keys, s.Required) {
			t.Errorf("keys %q, the schema has %q", keys, s.Required)
		}
	}
	for key := range s.Properties {
		if !slices.Contains(s.Required, key) {
			t.Errorf("%s is in the schema and in no line", key)
		}
	}
}

// A key that was published stays, with its type.
func TestSchemaIsAdditive(t *testing.T) {
	s := readSchema(t)
	published, err := os.ReadFile("testdata/audit.v1.keys")
	if err != nil {
		t.Fatal(err)
	}
	for entry := range strings.Lines(string(published)) {
		key, kind, _ := strings.Cut(strings.TrimSpace(entry), " ")
		if p := s.Properties[key]; p == nil || p.Type != kind && p.Const == nil {
			t.Errorf("%s was a published key of type %s", key, kind)
		}
	}
}

func TestTypicalLine(t *testing.T) {
	got := written(t, telemetry.Options{Configuration: configuration(), Replica: "eu-1-7c9f"}, typical())[0]
	want := `{"schema":1,"time":"2026-11-22T11:46:01.766283Z","fetch_id":"01JD8Y5T3QK4M","trace_id":"0af7651916cd43dd8448eb211c80319c","span_id":"b7ad6b7169203331","replica":"eu-1-7c9f","rpc":"StreamFetch",` +
		`"caller":"billing","identity":"","owner":"team-payments","on_behalf_of":"","labels":{"job":"nightly"},` +
		`"method":"GET","origin":"https://api.example.com:443","path":"/v1/items","query_keys":["page","limit"],"final_origin":"",` +
		`"allowed":true,"enforced":true,"carried_out":true,"rule":"partners/stripe","rule_at":"policy.yaml:rules[0]","generation":42,"policy_digest":"sha256:` + strings.Repeat("0a", 32) + `","why":"",` +
		`"outcome":"response","status_code":200,"reason":"","blame":"","stage":"","request_sent":"YES","rpc_code":"OK",` +
		`"attempts":1,"hops":1,"retry_suppressed":"","resumes":0,"remote_address":"203.0.113.7:443","egress_address":"","protocol":"h2","reused":true,"tls":"1.3",` +
		`"credential":"","total_us":31000,"dns_us":0,"connect_us":0,"tls_us":0,"first_byte_us":20000,"queue_us":1,` +
		`"request_bytes":0,"response_wire_bytes":1234,"response_body_bytes":4321,"sha256":"","redacted":["query"],"dangerous":[]}`
	if strings.TrimSuffix(got, "\n") != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// The facts about policy, by kind of fetch.
func TestDecisionFacts(t *testing.T) {
	tests := []struct {
		name   string
		report *fetch.Report
		want   string // allowed, enforced, carried_out, request_sent, rule, rule_at, reason, blame, final_origin
	}{
		{"response", typical(), "true true true YES partners/stripe policy.yaml:rules[0] - - -"},
		{"reported", reported(), "false false true YES default-deny - - - -"},
		{"open", opened(), "true false true YES partners/stripe policy.yaml:rules[0] - - -"},
		{"denied by name", deniedByName(), "false true false NO default-deny - DESTINATION_DENIED POLICY -"},
		{"denied by address", deniedByAddress(), "false true false NO partners/stripe policy.yaml:rules[0] ADDRESS_DENIED POLICY -"},
		{"redirected", redirected(), "true true true YES internal policy.yaml:rules[1] - - http://10.0.0.7:8080"},
		{"redirect denied", redirectDenied(), "false true true NO internal policy.yaml:rules[1] REDIRECT_DENIED POLICY http://10.0.0.7:8080"},
		{"failed", failing(fetch.ReasonConnectRefused), "true true true UNKNOWN partners/stripe policy.yaml:rules[0] CONNECT_REFUSED NETWORK -"},
		{"canceled", canceled(), "true true true UNKNOWN partners/stripe policy.yaml:rules[0] - - -"},
		{"rejected", rejected(), "false true false NO - - FIELD_INVALID - -"},
	}
	s := readSchema(t)
	for _, test := range tests {
		v := checkLine(t, s, written(t, telemetry.Options{Configuration: configuration()}, test.report)[0])
		var got []string
		for _, key := range []string{"allowed", "enforced", "carried_out", "request_sent", "rule", "rule_at", "reason", "blame", "final_origin"} {
			word := fmt.Sprint(v[key])
			if word == "" {
				word = "-"
			}
			got = append(got, word)
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: %s, want %s", test.name, strings.Join(got, " "), test.want)
		}
	}
}

// The address is in the line of a denial, however long the host is.
func TestDenialKeepsAddress(t *testing.T) {
	for _, length := range []int{10, 253} {
		r := deniedByAddress()
		r.Denied.Message = strings.Repeat("h", length) + " resolves to an address that policy denies (private)"
		r.Denied.Audit = `caller "` + strings.Repeat("c", 64) + `", GET https://` + strings.Repeat("h", length) + `: rule "partners/stripe" does not open 10.9.8.7:443, which is of class private`
		v := checkLine(t, readSchema(t), written(t, telemetry.Options{}, r)[0])
		if why := v["why"].(string); !strings.Contains(why, "10.9.8.7:443") || !strings.HasPrefix(why, "hhh") {
			t.Errorf("why: %q", why)
		}
	}
}

// What was said of a fetch that was not carried out, and of a denial, once.
func TestWhy(t *testing.T) {
	for want, report := range map[string]*fetch.Report{
		"request.url: the URL is not absolute":       rejected(),
		"no rule allows GET https://api.example.com": deniedByName(),
		`api.example.com resolves to an address that policy denies (private); rule "partners/stripe" does not open 10.9.8.7:443, which is of class private`: deniedByAddress(),
	} {
		v := checkLine(t, readSchema(t), written(t, telemetry.Options{Configuration: configuration()}, report)[0])
		if v["why"] != want {
			t.Errorf("why is %q, want %q", v["why"], want)
		}
	}
}

// The dangerous_ settings are those of all hops and of the caller, each once.
func TestDangerousOfAllHops(t *testing.T) {
	c := configuration()
	c.Config.Callers = append(c.Config.Callers, &configv1.Caller{Name: "guests", DangerousAnonymous: true})
	needed := redirected()
	needed.Attempts[0].Hops[0].Dangerous = []string{"dangerous_allow_loopback"}
	needed.Attempts[0].Hops[1].Dangerous = []string{"dangerous_allow_loopback", "dangerous_allow_downgrade"}
	guest, nobody := typical(), typical()
	guest.Caller = fetch.Caller{Name: "guests", Anonymous: true}
	nobody.Caller = fetch.Caller{Name: "anonymous", Anonymous: true} // of a server that asks nobody
	for want, report := range map[string]*fetch.Report{
		"[dangerous_allow_loopback dangerous_allow_downgrade]": needed, "[dangerous_anonymous]": guest, "[]": nobody,
	} {
		v := checkLine(t, readSchema(t), written(t, telemetry.Options{Configuration: c}, report)[0])
		if got := fmt.Sprint(v["dangerous"]); got != want {
			t.Errorf("dangerous is %s, want %s", got, want)
		}
	}
}

// A place and a digest of another configuration are not made up.
func TestOtherGeneration(t *testing.T) {
	r := typical()
	r.Generation = 41
	v := checkLine(t, readSchema(t), written(t, telemetry.Options{Configuration: configuration()}, r)[0])
	if v["rule_at"] != "" || v["policy_digest"] != "" || v["generation"] != 41.0 {
		t.Errorf("%v %v %v", v["rule_at"], v["policy_digest"], v["generation"])
	}
}

// hostile is every text that breaks logs.
var hostile = []string{
	"a\r\nb", "\x1b[31mred\x1b[0m", `"},{"x":"`, `\`, "\x00\x7f", "\xff\xfe\xc0\x80", "\u202e\u2028\u2029", "\U0001f4a9", "\ud7ff\ue000",
	strings.Repeat("\x01", 9000), strings.Repeat("\U0001f4a9", 3000), strings.Repeat(`"`, 9000), strings.Repeat("a", 9000),
}

// spoil puts text wherever a caller or an upstream can.
func spoil(r *fetch.Report, text string) *fetch.Report {
	r.ID, r.RPC, r.Caller.Name, r.Method, r.Code, r.Refusal, r.Rule, r.RefusalMessage = text, text, text, text, text, text, text, text
	r.Traceparent, r.Caller.Anonymous = text, true
	r.Labels = map[string]string{}
	for i := range 20 {
		r.Labels[fmt.Sprint(i, text)] = text
	}
	r.Destination.Host, r.Destination.Target = text, "/"+text+"?"+strings.Repeat(text+"=1&", 100)
	if r.Denied != nil {
		r.Denied.Message, r.Denied.Audit, r.Denied.Rule = text, text, text
	}
	if r.Failure != nil {
		r.Failure.Message, r.Failure.Reason = text, fetch.Reason(text)
	}
	r.Suppressed = fetch.Suppressed(text)
	for i := range r.Attempts {
		for j := range r.Attempts[i].Hops {
			h := &r.Attempts[i].Hops[j]
			h.Destination.Host, h.Destination.Scheme, h.Facts.Protocol, h.Rule, h.Method = text+"x", "https", text, text, text
			h.Credentials = []fetch.CredentialUse{{Name: text, Kind: text, Version: math.MaxInt64}, {Kind: text}, {Name: text + "x", Dropped: true}}
			h.Echoes = []string{text}
			h.Dangerous = []string{"dangerous_allow_loopback", "dangerous_allow_downgrade", "dangerous_allow_metadata", "dangerous_allow_own_listeners"}
			h.Facts.Remote = netip.MustParseAddrPort("[fe80:1111:2222:3333:4444:5555:6666:7777]:65535")
		}
	}
	r.Generation, r.RequestBytes, r.WireBytes, r.BodyBytes = math.MaxInt64, math.MaxInt64, math.MaxInt64, math.MaxInt64
	r.Total = math.MaxInt64
	return r
}

func spoiled(text string) []*fetch.Report {
	return []*fetch.Report{
		spoil(typical(), text), spoil(deniedByAddress(), text), spoil(redirectDenied(), text), spoil(failing(fetch.ReasonHeadTimeout), text), spoil(rejected(), text),
	}
}

func spoiledOptions(text string) telemetry.Options {
	c := telemetry.Configuration{
		Config: &configv1.Config{
			Callers: []*configv1.Caller{{Name: text, Owner: text, DangerousAnonymous: true}},
			Rules:   []*configv1.Rule{{Name: text}},
		},
		Locate: func(string) string { return text }, Generation: math.MaxInt64, Digest: text,
	}
	return telemetry.Options{Configuration: c, Replica: text}
}

// Whatever callers and upstreams write, an event is one line of ASCII, and its
// JSON is whole.
func TestLinesOfHostileText(t *testing.T) {
	s := readSchema(t)
	for _, text := range hostile {
		o := spoiledOptions(strings.ToValidUTF8(text, "?")) // a name is a metric's label too
		lines := written(t, o, spoiled(text)...)
		if len(lines) != len(spoiled(text)) {
			t.Fatalf("%d lines of %d events with %.20q", len(lines), len(spoiled(text)), text)
		}
		for _, line := range lines {
			checkLine(t, s, line)
		}
	}
}

func FuzzLine(f *testing.F) {
	for _, text := range hostile {
		f.Add(text[:min(len(text), 1000)])
	}
	s := readSchema(f)
	f.Fuzz(func(t *testing.T, text string) {
		lines := written(t, spoiledOptions(strings.ToValidUTF8(text, "?")), spoiled(text)...)
		if len(lines) != len(spoiled(text)) {
			t.Fatalf("%d lines", len(lines))
		}
		for _, line := range lines {
			checkLine(t, s, line)
		}
	})
}

// What a query holds is in no line, also where it has no name.
func TestCanary(t *testing.T) {
	const secret = "CANARY-5f1e"
	for _, target := range []string{"/p?token=" + secret, "/p?" + secret, "/p?a=1&" + secret + "&b=" + secret + "=x", "/p?a;b=" + secret} {
		r := redirected()
		r.Destination.Target, r.Destination.Fragment = target, secret
		for i := range r.Attempts[0].Hops {
			r.Attempts[0].Hops[i].Destination.Target = target
		}
		r.Cookies = []fetch.Cookie{{Name: []byte("c"), Value: []byte(secret)}}
		r.Trailers = []fetch.Field{{Name: "X", Value: []byte(secret)}}
		line := written(t, telemetry.Options{Configuration: configuration()}, r)[0]
		if strings.Contains(line, secret) {
			t.Errorf("%s: %s", target, line)
		}
	}
}

func TestDetail(t *testing.T) {
	c := configuration()
	c.Config.Audit = &configv1.Audit{Detail: "denied_and_failed"}
	lines := written(t, telemetry.Options{Configuration: c}, typical(), deniedByName(), failing(fetch.ReasonHeadTimeout), rejected(), canceled())
	if len(lines) != 4 {
		t.Errorf("%d lines, want those without a response: %q", len(lines), lines)
	}
}

// A line costs no allocation, with its labels and its query.
func TestLineAllocations(t *testing.T) {
	c := configuration()
	c.Config.Audit = &configv1.Audit{MaxQueueBytes: ptr(int64(1 << 30))}
	r := newRecorder(t, telemetry.Options{Configuration: c, Stdout: io.Discard})
	for name, report := range map[string]*fetch.Report{"response": typical(), "denial": deniedByAddress(), "redirect": redirected(), "failure": failing(fetch.ReasonHeadTimeout)} {
		ctx := context.Background()
		if n := testing.AllocsPerRun(500, func() {
			_ = r.Begin(report.RPC)
			r.End(ctx, report)
		}); n != 0 && !raceEnabled {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func ptr[T any](v T) *T { return &v }
