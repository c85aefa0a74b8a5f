package telemetry

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// maxCredential is the most bytes of what the line says of credentials.
const maxCredential = 192

// maxUses is how many uses of credentials are named.
const maxUses = 16

// credentials names those that were applied or dropped, each once, in the order
// of the hops.
func (l *line) credentials(r *fetch.Report) {
	var list [maxUses]fetch.CredentialUse
	said := list[:0]
	l.key("credential")
	l.b = append(l.b, '"')
	start := len(l.b)
	for i := range r.Attempts {
		for j := range r.Attempts[i].Hops {
			for _, u := range r.Attempts[i].Hops[j].Credentials {
				if u.ByRule = false; len(said) == maxUses || slices.Contains(said, u) {
					continue
				}
				said = append(said, u)
				before := len(l.b)
				if before > start {
					l.b = append(l.b, ',')
				}
				if l.b = appendUse(l.b, u); len(l.b)-start > maxCredential {
					l.b = l.b[:before]
				}
			}
		}
	}
	l.b = append(l.b, '"')
}

func appendUse(b []byte, u fetch.CredentialUse) []byte {
	if u.Dropped {
		b = append(b, '-')
	}
	switch {
	case u.Name == "":
		return appendPlain(append(b, "inline:"...), u.Kind)
	case u.Dropped:
		return appendPlain(b, u.Name)
	}
	return strconv.AppendInt(append(appendPlain(b, u.Name), '@'), u.Version, 10)
}

// appendPlain writes a name. The configuration takes none that needs escapes; a
// bug elsewhere must not break the line.
func appendPlain(b []byte, name string) []byte {
	for i := range min(len(name), maxName) {
		c := name[i]
		if !isPlain(c) {
			c = '?'
		}
		b = append(b, c)
	}
	return b
}

// countCredentials counts what became of the credentials of a hop.
func (n *names) countCredentials(h *fetch.Hop) {
	for _, u := range h.Credentials {
		usage := usages.place("applied")
		if u.Dropped {
			usage = usages.place("dropped")
		}
		n.credentialUses.at(n.credentials.place(cmp.Or(u.Name, none)), kinds.place(u.Kind), usage).Inc()
	}
	for _, name := range h.Echoes {
		n.credentialEchoes.at(n.credentials.place(name)).Inc()
	}
}
