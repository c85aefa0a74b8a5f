package cookie

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/fetchgate/fetchgate/service/fetch"
)

const (
	// MaxPerDomain is how many cookies a jar holds for one domain, without its
	// parents and subdomains. RFC 6265 section 6.1 asks for 50 at least.
	MaxPerDomain = 50
	// MaxTotal is how many cookies a jar holds in all.
	MaxTotal = 200
	// MaxBytes is the most that the names, values, paths and domains of a jar
	// have together: about as much as the other fields of a request may.
	MaxBytes = 64 << 10
	// MaxPairBytes is the most that the name and the value of a cookie have
	// together (RFC 6265bis section 5.7). A bigger cookie is not taken.
	MaxPairBytes = 4096
	// MaxAttributeBytes is the longest value of an attribute; a longer one is
	// ignored (RFC 6265bis section 5.6). It is also the longest path, so that a
	// cookie without a Path from a URL with a longer one is not taken.
	MaxAttributeBytes = 1024
)

// Jar holds cookies. It is for one goroutine at a time. The zero value is empty
// and ready.
type Jar struct {
	cookies []fetch.Cookie // in order of creation
}

// Add puts a cookie of a request to to into the jar. An empty Domain means the
// host of to alone, an empty Path "/". A cookie of the same name, domain and
// path is replaced. The prefixes __Secure- and __Host- ask nothing here, since
// it is the caller who says where the cookie goes.
//
// The error says in words for the caller what is wrong with the cookie: its
// name, value, path or domain (one that is neither the host of to nor a parent
// of it that is not a public suffix), or that the jar is full. It never holds
// the value.
func (j *Jar) Add(c fetch.Cookie, to fetch.Destination) error {
	if err := checkGiven(c); err != nil {
		return err
	}
	hostOnly, ok := scope(c.Domain, to.Host)
	if !ok {
		return errDomain(c.Domain, to.Host)
	}
	c.HostOnly = c.HostOnly || hostOnly
	c.Domain = cmp.Or(c.Domain, to.Host)
	c.Name, c.Value = bytes.Clone(c.Name), bytes.Clone(c.Value)
	if c.Path = bytes.Clone(c.Path); len(c.Path) == 0 {
		c.Path = []byte("/")
	}
	if err := j.checkRoom(c); err != nil {
		return err
	}
	j.put(c)
	return nil
}

// Store takes the cookies of the Set-Cookie fields of a response of from that
// came at now (RFC 6265 section 5.3). What the RFC ignores is ignored, and so
// is a cookie that breaks the rules of RFC 6265bis section 5.7: a field with a
// control character other than tab, a Secure cookie or one that would hide a
// Secure one over http, or a name that begins with __Secure- or __Host-, in any
// case, without the attributes that it promises. A cookie beyond MaxPerDomain
// or MaxTotal takes the place of the oldest of its domain or, if it is the
// first, of the domain that has the most; beyond MaxBytes the oldest of all go.
func (j *Jar) Store(from fetch.Destination, fields []fetch.Field, now time.Time) {
	j.expire(now)
	for _, f := range fields {
		if !strings.EqualFold(f.Name, "Set-Cookie") {
			continue
		}
		c, ok := parse(f.Value, now).cookie(from)
		switch {
		case !ok || from.Scheme != "https" && j.hidesSecure(c):
		case isOver(c, now):
			if i := j.index(c); i >= 0 {
				j.cookies = slices.Delete(j.cookies, i, i+1)
			}
		default:
			j.put(c)
		}
	}
}

// Value returns the value of the Cookie field of a hop to to at now, the longer
// paths first and then the older cookies (RFC 6265 section 5.4); nil if no
// cookie goes there. It is legal as a field's value (RFC 9110 section 5.5),
// whatever was stored.
func (j *Jar) Value(to fetch.Destination, now time.Time) []byte {
	if j.expire(now); len(j.cookies) == 0 {
		return nil
	}
	path := requestPath(to)
	var sent []fetch.Cookie
	for _, c := range j.cookies {
		if goesTo(c, to, path) {
			sent = append(sent, c)
		}
	}
	slices.SortStableFunc(sent, func(a, b fetch.Cookie) int { return cmp.Compare(len(b.Path), len(a.Path)) })
	var value []byte
	for i, c := range sent {
		if i > 0 {
			value = append(value, "; "...)
		}
		value = append(value, c.Name...)
		value = append(value, '=')
		value = append(value, c.Value...)
	}
	return value
}

// Cookies returns the cookies that are held at now, in order of creation. Their
// bytes are the jar's and must not be changed.
func (j *Jar) Cookies(now time.Time) []fetch.Cookie {
	j.expire(now)
	return slices.Clone(j.cookies)
}

func (j *Jar) expire(now time.Time) {
	j.cookies = slices.DeleteFunc(j.cookies, func(c fetch.Cookie) bool { return isOver(c, now) })
}

func isOver(c fetch.Cookie, now time.Time) bool {
	return !c.Expires.IsZero() && !c.Expires.After(now)
}

// index returns where the cookie is that c replaces, or -1 (RFC 6265 section
// 5.3, step 11).
func (j *Jar) index(c fetch.Cookie) int {
	return slices.IndexFunc(j.cookies, func(held fetch.Cookie) bool {
		return bytes.Equal(held.Name, c.Name) && held.Domain == c.Domain && bytes.Equal(held.Path, c.Path)
	})
}

// put holds c in the place of the one that it replaces, whose creation time it
// keeps so, or else as the newest.
func (j *Jar) put(c fetch.Cookie) {
	if i := j.index(c); i >= 0 {
		j.cookies[i] = c
	} else {
		j.cookies = append(j.cookies, c)
		j.limitNumber(c)
	}
	for j.bytes() > MaxBytes {
		j.cookies = slices.Delete(j.cookies, 0, 1)
	}
}

// bytes is how much the cookies of j have together.
func (j *Jar) bytes() int {
	n := 0
	for _, c := range j.cookies {
		n += size(c)
	}
	return n
}

func size(c fetch.Cookie) int { return len(c.Name) + len(c.Value) + len(c.Path) + len(c.Domain) }

// limitNumber drops a cookie if c, the newest, is one too many.
func (j *Jar) limitNumber(c fetch.Cookie) {
	ofDomain := j.count(c.Domain)
	if ofDomain <= MaxPerDomain && len(j.cookies) <= MaxTotal {
		return
	}
	crowded := c.Domain
	if ofDomain == 1 {
		crowded = j.fullest()
	}
	oldest := slices.IndexFunc(j.cookies, func(held fetch.Cookie) bool { return held.Domain == crowded })
	j.cookies = slices.Delete(j.cookies, oldest, oldest+1)
}

func (j *Jar) count(domain string) int {
	n := 0
	for _, c := range j.cookies {
		if c.Domain == domain {
			n++
		}
	}
	return n
}

// fullest returns the domain with the most cookies; of several, the one with
// the oldest cookie.
func (j *Jar) fullest() string {
	count := map[string]int{}
	for _, c := range j.cookies {
		count[c.Domain]++
	}
	return slices.MaxFunc(j.cookies, func(a, b fetch.Cookie) int {
		return cmp.Compare(count[a.Domain], count[b.Domain])
	}).Domain
}

// hidesSecure reports whether c, which came over http, would replace or shadow
// a Secure cookie (RFC 6265bis section 5.7).
func (j *Jar) hidesSecure(c fetch.Cookie) bool {
	return slices.ContainsFunc(j.cookies, func(held fetch.Cookie) bool {
		return held.Secure && bytes.Equal(held.Name, c.Name) && pathMatch(c.Path, held.Path) &&
			(domainMatch(c.Domain, held.Domain) || domainMatch(held.Domain, c.Domain))
	})
}
