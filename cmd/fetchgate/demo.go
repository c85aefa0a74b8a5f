package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
)

// stepTimeout is for one step of the demo.
const stepTimeout = time.Minute

type demoCommand struct {
	Break string `placeholder:"STEP" help:"See a check fail: the upstream misbehaves in this step (${steps}), and the exit code is 1."`
	Keep  string `placeholder:"DIR" type:"given" help:"Leave the configuration files and the audit record in this new directory."`
}

// Help is the end of the command's help.
func (demoCommand) Help() string {
	return "It starts a service and an upstream of its own on free ports of loopback, and sends nothing anywhere else. " +
		"What it shows it checks against what the upstream recorded and what the report says."
}

// Validate refuses a step that there is not.
func (c *demoCommand) Validate() error {
	names := strings.Split(stepNames, ",")
	if c.Break == "" || slices.Contains(names, c.Break) {
		return nil
	}
	return fmt.Errorf("--break: there is no step %+.64q; the steps are %s", c.Break, strings.Join(names, ", "))
}

// Run shows every step.
func (c *demoCommand) Run(ctx context.Context, s streams, name program) error {
	return runDemo(ctx, s, name, demoOptions{broken: c.Break, streamBytes: 256 << 20, keep: c.Keep})
}

// demoOptions are what a demo differs in.
type demoOptions struct {
	broken      string // the step in which the upstream misbehaves; empty: none
	streamBytes int64  // of the body in the step stream
	keep        string // the directory that stays; empty: none does
}

// demo is a service and an upstream that run side by side.
type demo struct {
	demoOptions
	streams
	upstream *demoUpstream
	service  *connection
	dir      string // of the files below
	settings []byte // the configuration file
	address  string // of the service
	started  bool   // whether all of it runs
	closers  []func()
}

func runDemo(ctx context.Context, s streams, name program, o demoOptions) error {
	d := &demo{demoOptions: o, streams: s}
	defer d.close()
	if err := d.start(); err != nil {
		return &problem{exitUsage, "the demo cannot start", err.Error(), "see that this machine lets programs listen on 127.0.0.1 and write temporary files, and that a directory to keep is not there yet"}
	}
	d.introduce()
	var failed []string
	for i, step := range demoSteps {
		fmt.Fprintf(s.out, "\n%d. %s: %s\n", i+1, step.name, step.shows)
		if !d.take(ctx, step) {
			failed = append(failed, step.name)
		}
		if ctx.Err() != nil {
			return &problem{code: exitInterrupted, what: "interrupted"}
		}
	}
	if failed != nil {
		return &problem{exitFailed, "the demo does not show what it should: " + strings.Join(failed, ", "), "", d.afterFailure(name)}
	}
	fmt.Fprintf(s.out, "\nAll %d steps show what they should.\n", len(demoSteps))
	fmt.Fprintf(s.out, "next: %s serve\n", name)
	fmt.Fprintf(s.out, "next: %s\n", nextGet(defaultAddress, "", exampleURL, name))
	fmt.Fprintf(s.out, "next: %s demo --break stream   # see a check fail\n", name)
	if d.keep != "" {
		fmt.Fprintf(s.out, "next: %s policy diff %s %s --against %s\n", name, shellWord(d.file(demoSettings)), shellWord(d.file(demoNext)), shellWord(d.file(demoAudit)))
	}
	return nil
}

func (d *demo) afterFailure(name program) string {
	if d.broken != "" {
		return fmt.Sprintf("this is what --break is for; without it: %s demo", name)
	}
	return "report it as a bug of fetchgate, with what stands above"
}

// take runs a step and prints its checks; it returns whether all of them hold.
func (d *demo) take(ctx context.Context, step demoStep) bool {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	c := &checks{}
	step.run(d, ctx, c)
	good := true
	for _, check := range c.list {
		mark := "✓"
		if !check.holds {
			mark, good = "✗", false
		}
		fmt.Fprintf(d.out, "   %s %s\n", mark, check.text)
	}
	return good
}

// introduce prints what runs and with which configuration.
func (d *demo) introduce() {
	fmt.Fprintf(d.out, "A service on %s and an upstream on %s, with this configuration:\n\n", d.address, d.upstream.plain)
	for line := range strings.Lines(string(d.settings)) {
		fmt.Fprintf(d.out, "    %s", line)
	}
}

// start runs the upstream and the service. close ends what it began, also
// after an error.
func (d *demo) start() error {
	err := d.makeDir()
	if err != nil {
		return err
	}
	if d.upstream, err = startDemoUpstream(d.broken); err != nil {
		return err
	}
	d.closers = append(d.closers, d.upstream.close)
	loaded, err := d.configure()
	if err != nil {
		return err
	}
	served, err := service.New(service.Options{Config: loaded, Version: version})
	if err != nil {
		return err
	}
	d.address = served.GRPCAddress()
	d.serve(served)
	if d.service, err = dial(d.address, nil); err != nil {
		return err
	}
	d.closers = append(d.closers, func() { d.service.Close() })
	d.started = true
	return nil
}

// makeDir makes the directory of the files.
func (d *demo) makeDir() (err error) {
	if d.keep != "" {
		if d.dir, err = filepath.Abs(d.keep); err != nil { // in a configuration, relative names begin where that is
			return err
		}
		if err = os.Mkdir(d.dir, 0o700); err == nil {
			d.closers = append(d.closers, d.discard)
		}
		return err
	}
	if d.dir, err = os.MkdirTemp("", "fetchgate-demo-"); err == nil {
		d.closers = append(d.closers, func() { os.RemoveAll(d.dir) })
	}
	return err
}

// discard removes a directory that was to be kept, unless the demo has begun to
// put into it what it shows.
func (d *demo) discard() {
	if !d.started {
		os.RemoveAll(d.dir)
	}
}

// serve runs the service until close, which waits for it.
func (d *demo) serve(served *service.Service) {
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := served.Serve(ctx); err != nil {
			fmt.Fprintf(d.err, "the service of the demo ended: %v\n", err)
		}
	})
	d.closers = append(d.closers, func() {
		stop()
		running.Wait()
	})
}

// close ends everything in the reverse order of its beginning.
func (d *demo) close() {
	for i := len(d.closers) - 1; i >= 0; i-- {
		d.closers[i]()
	}
}

// configure writes the configuration to a file and loads it as serve does.
func (d *demo) configure() (*config.Loaded, error) {
	if err := os.WriteFile(filepath.Join(d.dir, "authority.pem"), d.upstream.authority, 0o600); err != nil {
		return nil, err
	}
	d.settings = fmt.Appendf(nil, `grpc: {address: "127.0.0.1:0", drain_grace: 1s}
http: {address: "127.0.0.1:0"}
audit: {sink: file, file: %q} # else a line for each fetch stands between these
upstream_tls:
  ca_files: [authority.pem]
rules:
  - name: demo-upstream
    origins: [%q, %q, %q, %q]
    dangerous_allow_loopback: true # the demo's upstream is on this machine
  - name: public
    origins: ["http://*", "https://*"]
`, d.file(demoAudit), d.upstream.plain, d.upstream.secure, d.upstream.misnamed, d.upstream.stranger)
	if err := os.WriteFile(d.file(demoSettings), d.settings, 0o600); err != nil {
		return nil, err
	}
	return config.Load(d.file(demoSettings))
}

// The files of the demo.
const (
	demoSettings = "fetchgate.yaml"
	demoNext     = "next.yaml" // as demoSettings, with one rule more
	demoAudit    = "audit.jsonl"
)

func (d *demo) file(name string) string { return filepath.Join(d.dir, name) }

// checks are what a step found, in order.
type checks struct{ list []check }

type check struct {
	holds bool
	text  string
}

// that adds a check. The text says what is the case and so is true either way.
func (c *checks) that(holds bool, format string, args ...any) {
	c.list = append(c.list, check{holds, fmt.Sprintf(format, args...)})
}

// fetcher returns what receives streams of the demo's service.
func (d *demo) fetcher(out io.Writer) *fetcher {
	return &fetcher{service: d.service, name: "fetchgate", out: out, err: d.err, progress: d.err}
}
