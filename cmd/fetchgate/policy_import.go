package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/file"
	"github.com/fetchgate/fetchgate/service/policy"
)

// policyImport is for who comes from another policy.
type policyImport struct {
	Smokescreen importSmokescreen `cmd:"" help:"Turn an ACL of smokescreen into a configuration."`
}

type importSmokescreen struct {
	ACL          string  `arg:"" name:"acl" help:"The ACL, a YAML file of version v1."`
	Output       string  `name:"output" short:"o" type:"given" placeholder:"FILE" help:"Write the configuration to FILE, which must not be there yet."`
	SpiffePrefix string  `name:"spiffe-prefix" type:"given" placeholder:"ID" help:"Callers show certificates with SPIFFE IDs: this, and the name of the service behind it (spiffe://prod/ns/)."`
	DNSSuffix    string  `name:"dns-suffix" type:"given" placeholder:"SUFFIX" help:"Callers show certificates with DNS names: the name of the service, and this behind it (.svc.example)."`
	Port         []int32 `name:"port" placeholder:"PORT" help:"Open this port too, beside 443 and 80, for https and http; repeatable."`
}

// Help is the end of the command's help.
func (importSmokescreen) Help() string {
	return `It reads the ACL alone ("egress-acl-file"), not smokescreen's own configuration: its ranges of addresses are allow_addresses and deny_addresses of rules. ` +
		`Each service becomes a caller; what its actions, domains and the global lists decide, rules decide here. ` +
		`smokescreen knows a client by its certificate's organizational unit, which proves nothing here: without --spiffe-prefix or --dns-suffix each caller shows a token. ` +
		`What is left to fill in, "fetchgate check" names. What cannot be carried over stands as NOTE in the file and on standard error.` + "\n\n" + findingsHelp
}

// Bounds of the files.
const (
	maxACLBytes    = 16 << 20
	maxConfigBytes = 1 << 20
)

// spiffeBeginning is what SPIFFE IDs of many callers begin with.
var spiffeBeginning = regexp.MustCompile(`^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)*/?$`)

// Run writes the configuration.
func (c *importSmokescreen) Run(s streams, name program) error {
	from, err := c.identities()
	if err != nil {
		return err
	}
	text, _, err := file.Read(c.ACL, maxACLBytes)
	if err != nil {
		return &problem{exitUsage, "cannot read the ACL " + c.ACL, file.Cause(err).Error(), "name the file that smokescreen is given with --egress-acl-file"}
	}
	a, err := readACL(c.ACL, text)
	if err != nil {
		return &problem{exitUsage, "cannot use the ACL " + c.ACL, err.Error(), "mend that place"}
	}
	made := importACL(c.ACL, a, from, c.ports())
	if err := made.compiles(); err != nil {
		return &problem{exitUsage, "cannot carry over the ACL " + c.ACL, firstLine(err.Error()), "import it in parts"}
	}
	var out bytes.Buffer
	made.write(&out, c.ACL, from)
	if out.Len()+hex.EncodedLen(sha256.Size)*len(made.callers) > maxConfigBytes { // with what is filled in
		made.notes = append(made.notes, importNote{1, "the configuration is larger than the 1 MiB that a file may have; leave services out"})
	}
	if err := c.save(s, out.Bytes(), name); err != nil {
		return err
	}
	return made.tell(s, c.ACL)
}

// identities checks the flags about callers.
func (c *importSmokescreen) identities() (identitySource, error) {
	from := identitySource{c.SpiffePrefix, strings.ToLower(c.DNSSuffix)}
	if from.spiffePrefix != "" {
		if !spiffeBeginning.MatchString(from.spiffePrefix) {
			return from, &problem{exitUsage, fmt.Sprintf("--spiffe-prefix %+.100q is not the beginning of SPIFFE IDs", c.SpiffePrefix), "", "write it like spiffe://prod/ns/"}
		}
		from.spiffePrefix = strings.TrimSuffix(from.spiffePrefix, "/") + "/"
	}
	if from.dnsSuffix != "" {
		from.dnsSuffix = "." + strings.TrimPrefix(from.dnsSuffix, ".")
		if !dnsLabels.MatchString(from.dnsSuffix[1:]) {
			return from, &problem{exitUsage, fmt.Sprintf("--dns-suffix %+.100q is not the end of DNS names", c.DNSSuffix), "", "write it like .svc.example"}
		}
	}
	for _, port := range c.Port {
		if port < 1 || port > 65535 {
			return from, &problem{exitUsage, fmt.Sprintf("--port %d is not a port", port), "ports are 1 to 65535", "name the ports that callers use"}
		}
	}
	return from, nil
}

// ports are those of all rules; nil: those of the schemes.
func (c *importSmokescreen) ports() []int32 {
	if len(c.Port) == 0 {
		return nil
	}
	ports := []int32{443, 80}
	for _, port := range c.Port {
		if port != 443 && port != 80 {
			ports = append(ports, port)
		}
	}
	return ports
}

// save writes the configuration where it belongs.
func (c *importSmokescreen) save(s streams, text []byte, name program) error {
	if c.Output == "" {
		_, err := s.out.Write(text)
		return err
	}
	f, err := os.OpenFile(c.Output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err == nil {
		_, err = f.Write(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return &problem{exitUsage, "cannot write " + c.Output, file.Cause(err).Error(), "name a new file with -o, in a directory that can be written"}
	}
	_, err = fmt.Fprintf(s.out, "wrote %s\n  next: %s check %s\n", c.Output, name, c.Output)
	return err
}

// compiles says whether a server takes the rules.
func (m *imported) compiles() error {
	var rules []*configv1.Rule
	for _, r := range m.rules {
		rules = append(rules, r.Rule)
	}
	_, err := policy.Compile(append(rules, &configv1.Rule{Name: "not-empty", Origins: everyHost}), policy.Options{})
	return err
}

// tell writes what is not carried over, and how much is.
func (m *imported) tell(s streams, acl string) error {
	for _, n := range m.notes {
		fmt.Fprintf(s.err, "%s:%d: %s\n", acl, n.line, escaped(n.text))
	}
	fmt.Fprintf(s.err, "%s: %s and %s; %s not carried over\n", filepath.Base(acl), plural(len(m.callers), "caller"), plural(len(m.rules), "rule"), plural(len(m.notes), "thing"))
	if len(m.notes) > 0 {
		return found
	}
	return nil
}
