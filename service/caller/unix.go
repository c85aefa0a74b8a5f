package caller

import (
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc/credentials"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// Process is what the system says about the process at the other end of a unix
// socket, as of its connecting. It is the AuthInfo of such connections.
type Process struct {
	// UID is the effective user id.
	UID uint32
}

// AuthType is how gRPC calls it.
func (Process) AuthType() string { return "unix" }

// GetCommonAuthInfo says that nobody but the system sees what goes over the
// connection, as gRPC's own credentials for unix sockets do.
func (Process) GetCommonAuthInfo() credentials.CommonAuthInfo {
	return credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}
}

// userIdentity precedes the user id in the identity of a caller.
const userIdentity = "unix:uid="

// users tells callers by the user ids of their processes.
type users map[uint32]*fetch.Caller

// find returns who runs a process. A process of nobody here is no proof, and no
// offence.
func (u users) find(by Process) proof {
	known := u[by.UID]
	if known == nil {
		return proof{}
	}
	return proof{of: known, identity: userIdentity + strconv.FormatUint(uint64(by.UID), 10)}
}

// withIdentity returns who has the user id of an identity; false means that it
// is of another kind.
func (u users) withIdentity(identity string) (*fetch.Caller, bool) {
	id, ok := strings.CutPrefix(identity, userIdentity)
	if !ok {
		return nil, false
	}
	n, err := strconv.ParseUint(id, 10, 32)
	return u[uint32(n)], err == nil
}

// noUser refuses an RPC of a process whose user is no caller.
func (a *Authenticator) noUser(by Process) *Unknown {
	next := "ask the operator to add it to callers[].unix_uids"
	if a.takesTokens() {
		next += ", or show a token in the metadata, authorization: Bearer TOKEN"
	}
	return unknown(fmt.Sprintf("the user id %d of the process at the unix socket is of no caller here; %s", by.UID, next))
}
