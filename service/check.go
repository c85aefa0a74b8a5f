package service

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/credential"
	"github.com/fetchgate/fetchgate/service/file"
	"github.com/fetchgate/fetchgate/service/policy"
)

// Checked is a configuration that can be served, as far as it was built to see that.
type Checked struct {
	Config *config.Loaded
	// Policy is that of its rules; it knows no listeners of its own.
	Policy *policy.Policy
	// Credentials are those that it holds, read.
	Credentials *credential.Store
}

// Check reads the configuration at path and says all that would keep it from
// being served, in the order of the file: what config.Load finds, and what is
// wrong with its rules, callers, credentials, and directories that are not there.
// Of a file that is no YAML, or has keys that are not known or values out of their
// ranges, it says that alone. The error is a [*config.Error].
func Check(path string) (*Checked, error) {
	loaded, err := config.Examine(path)
	if loaded == nil {
		return nil, err
	}
	compiled, wrongRules := CompilePolicy(loaded, nil)
	_, wrongCallers := CompileCallers(loaded, nil)
	held, wrongCredentials := HoldCredentials(loaded, nil, nil)
	var refused []*config.Error
	for _, err := range []error{err, wrongRules, wrongCallers, wrongCredentials, checkDirectories(loaded)} {
		if wrong, ok := errors.AsType[*config.Error](err); ok {
			refused = append(refused, wrong)
		}
	}
	if all := config.Together(refused...); all != nil {
		return nil, all
	}
	return &Checked{Config: loaded, Policy: compiled, Credentials: held}, nil
}

// checkDirectories refuses files to be written whose directories are not there.
// What serves already needs no such look: it has opened them.
func checkDirectories(c *config.Loaded) error {
	socket, _ := c.UnixSocket()
	var wrong []config.Problem
	for setting, path := range map[string]string{"audit.file": c.Audit().GetFile(), "grpc.unix.path": socket} {
		if path == "" {
			continue
		}
		within := filepath.Dir(path)
		about, err := os.Stat(within)
		switch {
		case err != nil:
			wrong = append(wrong, config.Problem{Path: setting, Message: fmt.Sprintf("the directory %s cannot be used: %v; make it, or name another", strconv.Quote(within), file.Cause(err))})
		case !about.IsDir():
			wrong = append(wrong, config.Problem{Path: setting, Message: strconv.Quote(within) + " is no directory; name a file in one"})
		}
	}
	if wrong == nil {
		return nil
	}
	return c.Refuse(wrong)
}

// Warnings are what keeps a configuration that was checked from working as it is
// meant at a time, although it can be served: places and what to mend there.
func Warnings(c *config.Loaded, now time.Time) (found []string) {
	for _, o := range c.OutdatedLists(now) {
		found = append(found, fmt.Sprintf("%s: grpc.tls.client_crl_file: %v; callers with certificates of this authority are refused until there is a newer one", c.Locate("grpc.tls.client_crl_file"), o))
	}
	return found
}
