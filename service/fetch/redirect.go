package fetch

// RedirectPlan says whether and how redirects are followed, with nothing left
// to default.
type RedirectPlan struct {
	// Max is the most redirects; 0 returns the 3xx response itself.
	Max     int
	Profile RedirectProfile
	// KeepFields are the names of fields to keep when a redirect leaves the
	// origin, RemoveFields of those to drop then beyond what is dropped anyway.
	KeepFields   []string
	RemoveFields []string
}

// BoundFields are the fields of a request that are for one origin alone: no
// redirect takes them to another, whatever a request asks for.
var BoundFields = []string{"Authorization", "Cookie", "Proxy-Authorization"}

// RedirectProfile is whose rules redirects follow where libraries differ.
type RedirectProfile int

// The profiles.
const (
	// RedirectFetch is the Fetch Standard (section 4.4, HTTP-redirect fetch).
	RedirectFetch RedirectProfile = iota
	RedirectRequests
	RedirectURLLib3
	RedirectHTTPX
	RedirectAIOHTTP
)
