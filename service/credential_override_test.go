package service_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// TestNothingOverridesACredential: what some servers take for the field or the
// parameter that a credential writes does not go beside it.
func TestNothingOverridesACredential(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	u := secureRecorder(t, authority, nil)
	v := newVault(t)
	v.hold("field", fmt.Sprintf("api_key: {header: X-Api-Key, key: {file: %q}}", v.put("field", "cnryfield")), boundTo("", u))
	v.hold("param", fmt.Sprintf("api_key: {query_param: key, key: {file: %q}}", v.put("param", "cnryparam")), boundTo("", u))
	rule := "rules:\n  - {name: r, origins: [%q], dangerous_allow_loopback: true, allow_underscore_fields: true, credentials: [field, param]}\n"
	w := observe(t, fetchtest.Options{Trust: authority, Extra: fmt.Sprintf(rule, fetchtest.OriginOf(u.Upstream)) + v.yaml.String()})
	for name, m := range map[string]*request{
		"a field with '_'":                 {Request: &fetchgatev1.HttpRequest{Url: u.URL("/"), Headers: headers("x_api_KEY", "mine")}},
		"a trailer":                        {Request: &fetchgatev1.HttpRequest{Url: u.URL("/"), Method: "POST", Body: raw("b"), Trailers: headers("X-Api-Key", "mine")}},
		"a parameter that another follows": {Request: &fetchgatev1.HttpRequest{Url: u.URL("/?a=b;k%65y=mine")}},
	} {
		_, err := w.Fetch(within(t), m)
		if s := status.Convert(err); s.Code() != codes.PermissionDenied || !strings.Contains(s.Message(), "the request has one of its own") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(u.Requests()); n != 0 {
		t.Errorf("%d requests went out", n)
	}
	m := &request{Request: &fetchgatev1.HttpRequest{Url: u.URL("/"), Method: "POST", Body: raw("b"), Headers: headers("X_Api", "mine"), Trailers: headers("X-Sum", "1")}}
	if _, err := w.Fetch(within(t), m); err != nil {
		t.Error(err)
	}
}

// TestLongPathInADenial: a status goes into a header field, of which clients take
// no more than some KiB.
func TestLongPathInADenial(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	u := secureRecorder(t, authority, nil)
	v := newVault(t)
	v.bearer("token", "cnrybearer", boundTo(", paths: ['/v1/*']", u))
	w := vaulted(t, v, authority, "", u)
	_, err := w.Fetch(within(t), naming(u.URL("/v2/"+strings.Repeat("%41", 5000)), "token"))
	wantRPCError(t, err, codes.PermissionDenied, "CREDENTIAL_OUT_OF_BINDING", u.URL("/v2/%41%41"))
	if n := len(status.Convert(err).Message()); n > 1<<10 {
		t.Errorf("the status has %d bytes", n)
	}
}
