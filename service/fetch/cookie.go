package fetch

import "time"

// Cookie is one cookie (RFC 6265).
type Cookie struct {
	Name, Value []byte
	// Domain is canonical; empty in a request means the host of its URL alone.
	Domain string
	// Path begins with "/"; empty in a request means "/".
	Path     []byte
	Secure   bool
	HTTPOnly bool
	// HostOnly tells that the cookie goes to Domain alone and not to its
	// subdomains.
	HostOnly bool
	// Expires is when the cookie ends; zero means with its fetch.
	Expires time.Time
	// SameSite is "", "None", "Lax" or "Strict"; it is only passed on.
	SameSite string
}
