package config

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
)

// maxSocketDirectory is the longest directory of a unix socket in bytes: the
// system takes 103 to 107 for the whole, and a socket is made under a name beside
// its own first.
const maxSocketDirectory = 88

// The user ids that stand for users whose id is not known: of another user
// namespace (the overflow uid of Linux), and none at all (chown(2)).
const (
	overflowUID = 65534
	noUID       = 4294967295
)

// UnixSocket returns where the API listens beside TCP, an absolute path, and the
// permissions of that socket, 0660 by default; an empty path means nowhere.
func (l *Loaded) UnixSocket() (path string, mode fs.FileMode) {
	unix := l.Config.GetGrpc().GetUnix()
	if unix.GetPath() == "" {
		return "", 0
	}
	mode = 0o660
	if n, err := strconv.ParseUint(unix.GetMode(), 8, 9); err == nil {
		mode = fs.FileMode(n)
	}
	path = l.File(unix.GetPath())
	if whole, err := filepath.Abs(path); err == nil {
		path = whole
	}
	return path, mode
}

// checkUnix refuses a socket that this system cannot have.
func (l *Loaded) checkUnix(refuse func(path, message string)) {
	name := l.Config.GetGrpc().GetUnix().GetPath()
	path, _ := l.UnixSocket()
	switch {
	case path == "":
	case runtime.GOOS != "linux" && runtime.GOOS != "darwin":
		refuse("grpc.unix", "fetchgate does not know how to ask this system, "+runtime.GOOS+", who connects to a unix socket; leave it out")
	case strings.HasPrefix(name, "@"), strings.ContainsRune(name, 0), strings.HasSuffix(name, "/"):
		refuse("grpc.unix.path", "is not the name of a file; write one such as /run/fetchgate/fetchgate.sock, whose directory and permissions say who may connect")
	case len(filepath.Dir(path)) > maxSocketDirectory || len(path) > 103:
		refuse("grpc.unix.path", fmt.Sprintf("is too long: the whole path has %d bytes, its directory %d; write one of at most 103, in a directory of at most %d", len(path), len(filepath.Dir(path)), maxSocketDirectory))
	}
}

// checkUsers refuses user ids that prove nothing.
func (l *Loaded) checkUsers(path string, caller *configv1.Caller, known *identities) {
	if len(caller.GetUnixUids()) > 0 && l.Config.GetGrpc().GetUnix().GetPath() == "" {
		known.refuse(path+".unix_uids", "needs grpc.unix.path, which is not set: over TCP nobody says of which user a process is")
	}
	for i, id := range caller.GetUnixUids() {
		at := fmt.Sprintf("%s.unix_uids[%d]", path, i)
		if id == overflowUID || id == noUID {
			known.refuse(at, fmt.Sprintf("is %d, which stands for users whose id is not known here; run the caller as a user of its own, and write that one's id", id))
			continue
		}
		known.claim(at, "uid", strconv.FormatInt(id, 10), caller.GetName())
	}
}
