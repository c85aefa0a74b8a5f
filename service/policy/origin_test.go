package policy_test

import (
	"strings"
	"testing"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/policy"
)

func TestOriginsThatAreRefused(t *testing.T) {
	for origin, why := range map[string]string{
		"":                                  "is not an origin",
		"example.com":                       "is not an origin",
		"example.com:443":                   "is not an origin",
		"https:example.com":                 "is not an origin",
		"*":                                 "is not an origin",
		"//example.com":                     "is not an origin",
		"*://example.com":                   "not absolute",
		"ftp://example.com":                 "scheme",
		"https://":                          "no host",
		"https://example.com/":              "leave out what follows",
		"https://example.com/v1":            "leave out what follows",
		"https://example.com?a":             "leave out what follows",
		"https://example.com#a":             "leave out what follows",
		`https://example.com\@evil.com`:     "leave out what follows",
		"https://user:pw@example.com":       "no user name",
		"https://@example.com":              "no user name",
		"https://example.com:":              "port",
		"https://example.com:0":             "port",
		"https://example.com:0443":          "port",
		"https://example.com:65536":         "port",
		"https://example.com:*":             "nowhere else",
		"https://127.1":                     "ends in a number",
		"https://0x7f000001":                "ends in a number",
		"https://[fe80::1%25eth0]":          "IPv6 address",
		"https://example..com":              "empty label",
		"https://example.com..":             "empty label",
		"https://ex%61mple.com":             "character",
		"https://exa mple.com":              "character",
		"https://*.":                        "no host",
		"https://*.*":                       "nowhere else",
		"https://**":                        "nowhere else",
		"https://*.*.example.com":           "nowhere else",
		"https://a.*.example.com":           "nowhere else",
		"https://a*.example.com":            "nowhere else",
		"https://*a.example.com":            "nowhere else",
		"https://*evil.com":                 "nowhere else",
		"https://example.*":                 "nowhere else",
		"https://*:":                        "port",
		"https://*:0":                       "port",
		"https://*.com":                     "public suffix",
		"https://*.COM.":                    "public suffix",
		"https://*.co.uk":                   "public suffix",
		"https://*.co.uk:8443":              "public suffix",
		"https://*.github.io":               "public suffix",
		"https://*.s3.amazonaws.com":        "public suffix",
		"https://*.compute.amazonaws.com":   "public suffix",
		"https://*.intranet":                "public suffix",
		"https://*.internal":                "public suffix",
		"https://*.localhost":               "public suffix",
		"https://*.corp.internal":           "one by one",
		"https://*.a.local":                 "one by one",
		"https://*.svc.cluster.local":       "one by one",
		"https://*.localhost.localdomain":   "one by one",
		"https://*.app.localhost":           "one by one",
		"https://*.1.2.3.4":                 "addresses have none",
		"https://*.10.0":                    "ends in a number",
		"https://*.[::1]":                   "addresses have none",
		"https://xn--bcher-kva1.example":    "internationalized",
		"https://example.com\u3002evil.com": "internationalized",
	} {
		got := faultsOf(t, &configv1.Rule{Name: "r", Origins: []string{origin}})
		if len(got) != 1 || !strings.HasPrefix(got[0], "rules[0].origins[0]: ") || !strings.Contains(got[0], why) {
			t.Errorf("%q: got %q, want one fault with %q", origin, got, why)
		}
	}
}

func TestOriginsMatchWholeLabels(t *testing.T) {
	for _, c := range []struct{ origin, yes, no string }{
		{"https://example.com",
			"https://example.com/ https://EXAMPLE.COM/ https://example.com./ https://example.com:443/x?y#z",
			"https://notexample.com/ https://example.com.evil/ https://example.com.evil.com/ https://a.example.com/ http://example.com/ https://example.com:444/ https://example.co/ https://xample.com/"},
		{"https://*.example.com",
			"https://a.example.com/ https://a.b.example.com/ https://A.Example.Com./ https://example.com.example.com/",
			"https://example.com/ https://evilexample.com/ https://a.evilexample.com/ https://a.example.com.evil.com/ https://example.com.evil.com/ https://a.xample.com/"},
		{"https://*.example.com:8443", "https://a.example.com:8443/", "https://a.example.com/"},
		{"https://*", "https://example.com/ https://1.1.1.1/ https://[2606:4700::1111]/ https://a_b.example.com/", "http://example.com/ https://example.com:80/ https://x/ https://x.local/"},
		{"https://*:8443", "https://example.com:8443/", "https://example.com/"},
		{"https://[2606:4700::1111]", "https://[2606:4700:0::1111]/", "https://[2606:4700::1112]/ https://1.1.1.1/"},
		{"https://intranet", "https://intranet/ https://INTRANET./", "https://a.intranet/ https://intranet.com/"},
		{"https://db.corp.internal", "https://db.corp.internal/", "https://a.db.corp.internal/ https://corp.internal/"},
	} {
		p := compile(t, []*configv1.Rule{{Name: "r", Origins: []string{c.origin}}}, policy.Options{})
		for _, url := range strings.Fields(c.yes) {
			if d := shop(t, p, "GET", url); d.Denied != nil {
				t.Errorf("%s does not match %s: %v", c.origin, url, d.Denied)
			}
		}
		for _, url := range strings.Fields(c.no) {
			if d := shop(t, p, "GET", url); d.Denied == nil {
				t.Errorf("%s matches %s", c.origin, url)
			}
		}
	}
}
