package server

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/cookie"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/retry"
)

// retries plans the further attempts.
func (d *draft) retries(m *fetchgatev1.RetryPolicy) {
	defaults := retry.Defaults{MaxAttempts: d.limits.MaxAttempts, HighestAttempts: d.limits.HighestAttempts}
	plan, clamped, problems := retry.Parse(m, defaults)
	for _, p := range problems {
		d.wrong(p.Path, "%s", p.Message)
	}
	d.plan.Retry = plan
	d.plan.Asked.Attempts, d.plan.Asked.Conditions = m != nil && m.MaxAttempts != nil, len(m.GetConditions()) > 0
	d.plan.Clamped = append(d.plan.Clamped, clamped...)
}

// maxNamedFields is the most names in keep_fields and in remove_fields.
const maxNamedFields = 100

var redirectProfiles = map[fetchgatev1.RedirectProfile]fetch.RedirectProfile{
	fetchgatev1.RedirectProfile_REDIRECT_PROFILE_UNSPECIFIED: fetch.RedirectFetch,
	fetchgatev1.RedirectProfile_REDIRECT_PROFILE_FETCH:       fetch.RedirectFetch,
	fetchgatev1.RedirectProfile_REDIRECT_PROFILE_REQUESTS:    fetch.RedirectRequests,
	fetchgatev1.RedirectProfile_REDIRECT_PROFILE_URLLIB3:     fetch.RedirectURLLib3,
	fetchgatev1.RedirectProfile_REDIRECT_PROFILE_HTTPX:       fetch.RedirectHTTPX,
	fetchgatev1.RedirectProfile_REDIRECT_PROFILE_AIOHTTP:     fetch.RedirectAIOHTTP,
}

// profileRedirects are how many redirects the libraries follow when they are
// not told.
var profileRedirects = map[fetch.RedirectProfile]int{
	fetch.RedirectRequests: 30, fetch.RedirectURLLib3: 3, fetch.RedirectHTTPX: 20, fetch.RedirectAIOHTTP: 9,
}

// redirects plans the further hops.
func (d *draft) redirects(m *fetchgatev1.RedirectPolicy) {
	r := &d.plan.Redirect
	profile, known := redirectProfiles[m.GetProfile()]
	if !known {
		d.notOffered("options.redirect.profile", "this server knows the profiles FETCH, REQUESTS, URLLIB3, HTTPX and AIOHTTP, not %v", m.GetProfile())
	}
	r.Profile, r.Max = profile, d.limits.MaxRedirects
	if most, ok := profileRedirects[profile]; ok {
		r.Max = min(most, d.limits.HighestRedirects)
	}
	if m != nil && m.MaxRedirects != nil {
		r.Max = int(d.number("options.redirect.max_redirects", int64(m.GetMaxRedirects()), 0, int64(d.limits.HighestRedirects)))
	}
	r.KeepFields = d.names("options.redirect.keep_fields", m.GetKeepFields())
	r.RemoveFields = d.names("options.redirect.remove_fields", m.GetRemoveFields())
	for i, name := range r.KeepFields {
		if slices.ContainsFunc(fetch.BoundFields, func(bound string) bool { return strings.EqualFold(bound, name) }) {
			d.wrong(fmt.Sprintf("options.redirect.keep_fields[%d]", i), "%s never leaves its origin; name a credential for the other origin instead", name)
		}
	}
}

// names checks a list of field names.
func (d *draft) names(path string, names []string) []string {
	if len(names) > maxNamedFields {
		d.wrong(path, "it has %d names, at most %d are taken", len(names), maxNamedFields)
		return nil
	}
	for i, name := range names {
		if err := fetch.CheckFieldName(name); err != nil {
			d.wrong(fmt.Sprintf("%s[%d]", path, i), "%v", err)
		}
	}
	return names
}

// maxCookies is the most cookies in one request.
const maxCookies = 50

var sameSite = map[fetchgatev1.SameSite]string{
	fetchgatev1.SameSite_SAME_SITE_NONE: "None", fetchgatev1.SameSite_SAME_SITE_LAX: "Lax", fetchgatev1.SameSite_SAME_SITE_STRICT: "Strict",
}

// cookies plans what is in the jar before the first hop.
func (d *draft) cookies(list []*fetchgatev1.Cookie) {
	if len(list) > maxCookies {
		d.wrong("request.cookies", "there are %d, at most %d are taken", len(list), maxCookies)
		return
	}
	var jar cookie.Jar
	for i, m := range list {
		c := fetch.Cookie{
			Name: m.GetName(), Value: m.GetValue(), Domain: m.GetDomain(), Path: m.GetPath(),
			Secure: m.GetSecure(), HTTPOnly: m.GetHttpOnly(), HostOnly: m.GetHostOnly(), SameSite: sameSite[m.GetSameSite()],
		}
		path := fmt.Sprintf("request.cookies[%d]", i)
		if t := m.GetExpireTime(); t != nil {
			if err := t.CheckValid(); err != nil {
				d.wrong(path+".expire_time", "it is not a time that protobuf allows")
				continue
			}
			c.Expires = t.AsTime()
		}
		if err := jar.Add(c, d.plan.Destination); err != nil {
			d.wrong(path, "%v", err)
			continue
		}
		d.plan.Cookies = append(d.plan.Cookies, c)
	}
}

// cookieMessages are cookies as the contract has them.
func cookieMessages(cookies []fetch.Cookie) []*fetchgatev1.Cookie {
	if len(cookies) == 0 {
		return nil
	}
	list := make([]*fetchgatev1.Cookie, len(cookies))
	for i, c := range cookies {
		list[i] = &fetchgatev1.Cookie{
			Name: c.Name, Value: c.Value, Domain: text(c.Domain), Path: c.Path,
			Secure: c.Secure, HttpOnly: c.HTTPOnly, HostOnly: c.HostOnly,
		}
		if !c.Expires.IsZero() {
			list[i].ExpireTime = timestamppb.New(c.Expires)
		}
		for value, name := range sameSite {
			if name == c.SameSite {
				list[i].SameSite = value
			}
		}
	}
	return list
}

// Labels of a fetch.
const (
	maxLabels     = 16
	maxLabelBytes = 128
)

var labelName = regexp.MustCompile(`^[a-z0-9_-]{1,64}$`)

// labels takes the labels for the audit record.
func (d *draft) labels(m map[string]string) {
	if len(m) > maxLabels {
		d.wrong("options.labels", "there are %d, at most %d are taken", len(m), maxLabels)
		return
	}
	for name, value := range m {
		switch {
		case !labelName.MatchString(name):
			d.wrong("options.labels", "the name %+.64q is not 1 to 64 of a-z, 0-9, \"_\" and \"-\"", name)
			return
		case len(value) > maxLabelBytes:
			d.wrong("options.labels", "the value of %q has %d bytes, at most %d are taken", name, len(value), maxLabelBytes)
			return
		}
	}
	d.plan.Labels = m
}
