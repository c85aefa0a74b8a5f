package policy_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// carriedOut has a sample for each field that policy carries out, refused one
// for each that it does not. A field of a rule is in exactly one of them.
var (
	carriedOut = map[protoreflect.Name]*configv1.Rule{
		"name":                     {Name: "other"},
		"owner":                    {Owner: "team"},
		"origins":                  {Origins: []string{"https://other.example.com"}},
		"ports":                    {Ports: []int32{8443}},
		"methods":                  {Methods: []string{"GET"}},
		"allow_addresses":          {AllowAddresses: []string{"10.0.0.0/8"}},
		"dangerous_allow_loopback": {DangerousAllowLoopback: true},
		"dangerous_allow_downgrade": {
			Origins: []string{"http://other.example.com"}, DangerousAllowDowngrade: true,
		},
		"action":                  {Action: "deny"},
		"mode":                    {Mode: "report"},
		"callers":                 {Callers: []string{"shop"}},
		"paths":                   {Paths: []string{"/v1/*"}},
		"query":                   {Query: map[string]string{"a": "b"}},
		"headers":                 {Headers: []string{"X-Team"}},
		"when":                    {When: "true"},
		"deny_addresses":          {DenyAddresses: []string{"10.0.0.7"}},
		"mixed_answers":           {MixedAnswers: "filter"},
		"allow_underscore_fields": {AllowUnderscoreFields: true},
		"credentials":             {Credentials: []string{"partner-key"}},
		"isolate":                 {Isolate: "caller"},
		"send_traceparent":        {SendTraceparent: true},
		"set_fields":              {SetFields: map[string]string{"X-Team": "shop"}},
		"remove_fields":           {RemoveFields: []string{"X-Team"}},
		"timeouts":                {Timeouts: &configv1.Timeouts{}},
		"retry":                   {Retry: &configv1.RuleRetry{}},
		"limits":                  {Limits: &configv1.RuleLimits{}},
		"tls_profile":             {TlsProfile: "strict"},

		"dangerous_allow_metadata":      {DangerousAllowMetadata: true},
		"dangerous_allow_own_listeners": {DangerousAllowOwnListeners: true},
	}
	refused = map[protoreflect.Name]*configv1.Rule{
		"allow_host":             {AllowHost: []string{"other.example.com"}},
		"allow_server_name":      {AllowServerName: []string{"other.example.com"}},
		"allow_resolve":          {AllowResolve: true},
		"allow_proxy_url":        {AllowProxyUrl: true},
		"allow_source_addresses": {AllowSourceAddresses: []string{"10.0.0.1"}},
		"allow_unix_sockets":     {AllowUnixSockets: []string{"/run/app.sock"}},
		"source_address":         {SourceAddress: "10.0.0.1"},
		"proxy_profile":          {ProxyProfile: "dmz"},
	}
)

// faultsOf returns what Compile says about a list of rules that it refuses.
func faultsOf(t *testing.T, rules ...*configv1.Rule) []string {
	t.Helper()
	p, err := policy.Compile(rules, policy.Options{TLSProfiles: map[string]fetch.TLSSettings{"strict": {MinVersion: tls.VersionTLS13}}})
	if err == nil {
		return nil
	}
	if p != nil {
		t.Error("Compile returned a policy beside its error")
	}
	var faults []string
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		var fault *policy.RuleError
		if !errors.As(e, &fault) {
			t.Fatalf("%T is no *RuleError", e)
		}
		faults = append(faults, fault.Error())
	}
	return faults
}

func TestEveryFieldIsCarriedOutOrRefusedByName(t *testing.T) {
	fields := (*configv1.Rule)(nil).ProtoReflect().Descriptor().Fields()
	if n := len(carriedOut) + len(refused); n != fields.Len() {
		t.Errorf("%d samples for %d fields", n, fields.Len())
	}
	for i := range fields.Len() {
		field := fields.Get(i)
		name := field.Name()
		sample, isRefused := refused[name]
		if !isRefused {
			sample = carriedOut[name]
		}
		if sample == nil || !sample.ProtoReflect().Has(field) {
			t.Errorf("%s: no sample; decide whether policy carries it out, and test that it does or that it refuses it", name)
			continue
		}
		r := &configv1.Rule{Name: "r", Origins: []string{"https://example.com"}}
		proto.Merge(r, sample)
		got := faultsOf(t, r)
		var want []string
		if isRefused {
			want = []string{fmt.Sprintf("rules[0].%s: this server does not carry out %q yet; remove it", name, name)}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestDefaultWordsAreTaken(t *testing.T) {
	r := &configv1.Rule{
		Name: "r", Origins: []string{"https://example.com"},
		Action: "allow", Mode: "enforce", MixedAnswers: "deny", Isolate: "shared",
	}
	if got := faultsOf(t, r); len(got) != 0 {
		t.Errorf("got %q", got)
	}
	r.Action, r.Mode, r.MixedAnswers, r.Isolate = "permit", "dry-run", "drop", "me"
	if got := faultsOf(t, r); len(got) != 4 {
		t.Errorf("got %q, want one fault for each of the four fields", got)
	}
}

func TestUnknownFieldIsRefused(t *testing.T) {
	r := &configv1.Rule{Name: "r", Origins: []string{"https://example.com"}}
	r.ProtoReflect().SetUnknown([]byte{0xf8, 0x3f, 1}) // field 1023
	if got := faultsOf(t, r); len(got) != 1 || !strings.Contains(got[0], "does not know") {
		t.Errorf("got %q", got)
	}
}

func TestEveryFaultIsSaid(t *testing.T) {
	got := faultsOf(t,
		&configv1.Rule{Name: "twice", Origins: []string{"https://example.com", "ftp://example.com", "https://a b"}},
		nil,
		&configv1.Rule{Name: "twice", Origins: []string{"https://*.com"}, Ports: []int32{0, 65536}, Methods: []string{"GET", "get", "TRACE"},
			AllowAddresses: []string{"10.0.0.7/8"}, TlsProfile: "strikt"},
		&configv1.Rule{Name: "default-deny", Origins: []string{"https://example.com"}},
	)
	want := []string{
		"rules[0].origins[1]: ",
		"rules[0].origins[2]: ",
		"rules[1].name: a rule needs a name",
		"rules[1].origins: a rule needs an origin",
		`rules[2].name: rules[0] is named "twice" too`,
		"rules[2].methods[1]: ",
		"rules[2].methods[2]: ",
		"rules[2].allow_addresses[0]: 10.0.0.7/8 has bits set beyond its length; write 10.0.0.0/8 or 10.0.0.7/32",
		`rules[2].tls_profile: no TLS profile is called "strikt"`,
		"rules[2].ports[0]: ",
		"rules[2].ports[1]: ",
		"rules[2].origins[0]: ",
		`rules[3].name: "default-deny" is what a decision without a rule is called`,
	}
	if len(got) != len(want) {
		t.Fatalf("%d faults, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("fault %d is %q, want %q", i, got[i], want[i])
		}
	}
}

func TestTooManyOriginsAreRefused(t *testing.T) {
	ports := make([]int32, 65535)
	for i := range ports {
		ports[i] = int32(i + 1)
	}
	var origins []string
	for i := range 4 {
		origins = append(origins, fmt.Sprintf("https://h%d.example.com", i))
	}
	repeated := &configv1.Rule{Name: "r", Origins: slices.Repeat(origins[:1], 4), Ports: ports}
	if got := faultsOf(t, repeated); len(got) != 0 {
		t.Errorf("repeated origins count more than once: %q", got)
	}
	r := &configv1.Rule{Name: "r", Origins: origins, Ports: ports}
	if got := faultsOf(t, r); len(got) != 1 || !strings.HasPrefix(got[0], "rules: together they have 262140 origins") {
		t.Errorf("got %q", got)
	}
}
