package service_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// TestRevokedProofs: a stream ends whose caller has lost the right to it, or what it
// proved itself with.
func TestRevokedProofs(t *testing.T) {
	const nobody = "dangerous_anonymous: true"
	token := func(text string) string { return "token_sha256: [" + digestOf(text) + "]" }
	for name, c := range map[string]struct {
		before, after string
		ends          bool
	}{
		"the right is taken away": {nobody + ", rights: [fetch, stream]", nobody + ", rights: [fetch]", true},
		"the right stays":         {nobody + ", rights: [fetch, stream]", nobody + ", rights: [stream]", false},
		"the token is another":    {token("stolen"), token("fresh"), true},
		"the token stays":         {token("stolen"), token("stolen"), false},
		"a token is asked for":    {nobody, token("stolen"), true},
	} {
		t.Run(name, func(t *testing.T) {
			release := make(chan struct{})
			u := streaming(t, release)
			yaml := func(caller string) string {
				return "callers: [{name: a, " + caller + "}]\n" + opening("0s", u)
			}
			s := reloading(t, yaml(c.before))
			ctx := within(t)
			if c.before == token("stolen") {
				ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer stolen")
			}
			events := receiving(ctx, t, s, u)
			s.change(t, yaml(c.after))
			if !c.ends {
				close(release)
			}
			summary, n, err := rest(events)
			withdrawn := summary.GetFailure().GetReason() == fetchgatev1.FailureReason_FAILURE_REASON_WITHDRAWN
			if err != nil || withdrawn != c.ends || !c.ends && n != len("world") {
				t.Errorf("it ends with %v, %d bytes, %v", summary.GetFailure(), n, err)
			}
		})
	}
}

// TestRevokedClaims: a stream ends whose caller's JWT would not be one of the new
// configuration, and no other; new keys of its issuer end none.
func TestRevokedClaims(t *testing.T) {
	for name, c := range map[string]struct {
		issuer, jwt string
		keys, ends  bool
	}{
		"nothing but a limit":       {"audiences: [fetchgate]", "subject: batch", false, false},
		"a claim that it has":       {"audiences: [fetchgate]", "subject: batch, claims: {env: prod}", false, false},
		"a claim that it has not":   {"audiences: [fetchgate]", "subject: batch, claims: {env: test}", false, true},
		"another subject":           {"audiences: [fetchgate]", "subject: other", false, true},
		"another audience":          {"audiences: [elsewhere]", "subject: batch", false, true},
		"the issuer has other keys": {"audiences: [fetchgate]", "subject: batch", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			release := make(chan struct{})
			u := streaming(t, release)
			keys, signer := filepath.Join(t.TempDir(), "keys.json"), newJWTKey(t, "first")
			replaceKeys(t, keys, signer)
			yaml := func(issuer, jwt string) string {
				return fmt.Sprintf("jwt_issuers: [{name: corp, issuer: \"https://issuer.example\", jwks_file: %q, %s}]\ncallers: [{name: batch, jwts: [{issuer: corp, %s}]}]\n", keys, issuer, jwt) +
					opening("0s", u)
			}
			s := reloading(t, yaml("audiences: [fetchgate]", "subject: batch"))
			token := signer.sign(t, map[string]any{"sub": "batch", "env": "prod"})
			events := receiving(metadata.AppendToOutgoingContext(within(t), "authorization", "Bearer "+token), t, s, u)
			if c.keys {
				replaceKeys(t, keys, newJWTKey(t, "second"))
			}
			s.change(t, yaml(c.issuer, c.jwt)+"limits: {max_attempts: 2}\n")
			if !c.ends {
				close(release)
			}
			summary, n, err := rest(events)
			withdrawn := summary.GetFailure().GetReason() == fetchgatev1.FailureReason_FAILURE_REASON_WITHDRAWN
			if err != nil || withdrawn != c.ends || !c.ends && n != len("world") {
				t.Errorf("it ends with %v, %d bytes, %v", summary.GetFailure(), n, err)
			}
		})
	}
}

// receiving is a stream of which the first data have come.
func receiving(ctx context.Context, t *testing.T, s *reloadable, u *fetchtest.Upstream) grpc.ServerStreamingClient[fetchgatev1.StreamFetchResponse] {
	t.Helper()
	events, err := s.StreamFetch(ctx, &fetchgatev1.StreamFetchRequest{Request: &fetchgatev1.HttpRequest{Url: u.URL("/")}})
	if err != nil {
		t.Fatal(err)
	}
	for event := (*fetchgatev1.StreamFetchResponse)(nil); event.GetData() == nil; {
		if event, err = events.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	return events
}

// TestRevokedCredential: what a new configuration does not hold any more, or holds
// for others, goes out with no hop that is still to come, and ends the one that is
// under way.
func TestRevokedCredential(t *testing.T) {
	for name, after := range map[string]func(*vault, *fetchtest.Recorder){
		"removed":                 func(*vault, *fetchtest.Recorder) {},
		"bound to another caller": func(v *vault, u *fetchtest.Recorder) { v.bearer("token", "CnryBearerX9", boundTo(", callers: [b]", u)) },
		"bound to another path": func(v *vault, u *fetchtest.Recorder) {
			v.bearer("token", "CnryBearerX9", boundTo(", paths: [/other]", u))
		},
		"of another name than that": func(v *vault, u *fetchtest.Recorder) { v.bearer("other", "CnryBearerX9", boundTo("", u)) },
	} {
		for _, grace := range []string{"0s", "60s"} {
			t.Run(name+", grace "+grace, func(t *testing.T) { checkRevokedCredential(t, after, grace) })
		}
	}
}

func checkRevokedCredential(t *testing.T, after func(*vault, *fetchtest.Recorder), grace string) {
	authority := fetchtest.NewAuthority(t)
	asked, release := make(chan struct{}, 1), make(chan struct{})
	u := secureRecorder(t, authority, func(r *fetchtest.Recorded) fetchtest.Step {
		if r.Target == "/first" {
			asked <- struct{}{}
			return fetchtest.Steps(fetchtest.Pause(release), fetchtest.Write("HTTP/1.1 302 Found\r\nLocation: /second\r\nContent-Length: 0\r\n\r\n"))
		}
		return fetchtest.Write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	})
	yaml := func(v *vault) string {
		return fmt.Sprintf("callers: [{name: a, dangerous_anonymous: true}, {name: b, token_sha256: [%s]}]\nreload: {revoke_grace: %s}\nupstream_tls: {ca_files: [%q]}\nrules: [{name: r, origins: [%q], dangerous_allow_loopback: true}]\n",
			digestOf("tok"), grace, authority.WriteFile(t), fetchtest.OriginOf(u.Upstream)) + v.yaml.String()
	}
	held, left := newVault(t), newVault(t)
	held.bearer("token", "CnryBearerX9", boundTo("", u))
	left.bearer("unrelated", "CnryBearerX8", boundTo("", u))
	after(left, u)
	s := reloading(t, yaml(held))
	type end struct {
		a   *answer
		err error
	}
	ended := make(chan end, 1)
	var all []*fetchtest.Recorded
	go func() {
		a, err := whole(within(t), s, naming(u.URL("/first"), "token"))
		ended <- end{a, err}
	}()
	<-asked
	s.change(t, yaml(left))
	if grace != "0s" {
		close(release)
	}
	got := <-ended
	for _, r := range u.Requests() {
		if all = append(all, &r); r.Target == "/second" && r.Get("Authorization") != "" {
			t.Errorf("the hop after the change carries %s", r.Get("Authorization"))
		}
	}
	withdrawn := got.a != nil && got.a.failure.GetReason() == fetchgatev1.FailureReason_FAILURE_REASON_WITHDRAWN
	if got.err != nil || withdrawn != (grace == "0s") || len(all) != map[string]int{"0s": 1, "60s": 2}[grace] {
		t.Errorf("%d requests came, and it ends with %v, %v", len(all), got.a, got.err)
	}
}

// TestHopAfterTheChange: a hop that begins after a change goes nowhere that the new
// configuration denies, whatever the grace: that is for what is under way.
func TestHopAfterTheChange(t *testing.T) {
	second := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	asked, release := make(chan struct{}), make(chan struct{})
	first := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(*fetchtest.Recorded) fetchtest.Step {
		close(asked)
		return fetchtest.Steps(fetchtest.Pause(release), fetchtest.Write("HTTP/1.1 307 Temporary Redirect\r\nLocation: "+second.URL("/transfer")+"\r\nContent-Length: 0\r\n\r\n"))
	}})
	s := reloading(t, opening("60s", first.Upstream, second.Upstream))
	var a *answer
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		a, err = whole(within(t), s, get(first.URL("/")))
	}()
	<-asked
	s.change(t, opening("60s", first.Upstream))
	close(release)
	<-done
	if err != nil || a.failure.GetReason() != fetchgatev1.FailureReason_FAILURE_REASON_WITHDRAWN || a.failure.GetRequestSent() != fetchgatev1.RequestSent_REQUEST_SENT_YES {
		t.Errorf("it ends with %v, %v", a, err)
	}
	if came := second.Requests(); len(came) > 0 {
		t.Errorf("%d requests came where the configuration in force denies", len(came))
	}
}
