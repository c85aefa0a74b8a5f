package fetch

import (
	"net/netip"
	"strconv"
)

// JudgedAddress is an address of a host and what Route.Allow says of it.
type JudgedAddress struct {
	Address netip.Addr
	// Denial is why it is not dialed; nil: it may be.
	Denial error
}

// Sealed returns r with the Key under which connections to o may be shared.
// The key holds every setting of r that a dial-time decision depends on; what
// is only asked while dialing (Allow, MaxDials) is named by AddressProfile.
func (r Route) Sealed(o Origin) Route {
	key := make([]byte, 0, 128)
	for _, part := range [...]string{
		o.Scheme, o.Host, strconv.Itoa(int(o.Port)),
		r.Partition, r.AddressProfile, strconv.FormatBool(r.FilterMixed),
		strconv.Itoa(int(r.Version)),
		r.TLS.RootsID, r.TLS.ServerName, strconv.Itoa(int(r.TLS.MinVersion)), string(r.TLS.Pins), r.TLS.IdentityID,
	} {
		// The length in front keeps two lists of parts from making one key.
		key = strconv.AppendInt(key, int64(len(part)), 10)
		key = append(key, ':')
		key = append(key, part...)
	}
	r.Key, r.Origin = string(key), o
	return r
}
