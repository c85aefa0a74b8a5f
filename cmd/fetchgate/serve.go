package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/KimMachineGun/automemlimit/memlimit"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// memoryRatio is how much of the cgroup's memory Go may use before it collects
// garbage more often: the rest is for what Go does not count.
const memoryRatio = 0.9

// maxRulesShown is how many rules the first screen has room for.
const maxRulesShown = 5

type serveCommand struct {
	Config      string `type:"given" placeholder:"FILE" help:"The configuration. Without one: public addresses only, listeners on loopback."`
	GRPCAddress string `name:"grpc-address" type:"given" placeholder:"HOST:PORT" help:"Where to serve gRPC, instead of what the configuration says (default ${defaultAddress})."`
	HTTPAddress string `name:"http-address" type:"given" placeholder:"HOST:PORT" help:"Where to serve health and metrics, instead of what the configuration says (default 127.0.0.1:7802)."`
}

// Help is the end of the command's help.
func (serveCommand) Help() string {
	return "SIGTERM or Ctrl-C lets fetches in flight end within the grace of the configuration; a second one ends at once. SIGHUP reads the configuration again, which also happens by itself when its file has changed."
}

// Run serves until ctx ends and what is in flight has drained.
func (c *serveCommand) Run(ctx context.Context, s streams, name program) error {
	loaded := config.Default()
	if c.Config != "" {
		var err error
		if loaded, err = config.Load(c.Config); err != nil {
			return c.cannotStart(err, name)
		}
	}
	log := newLog(s.err, loaded)
	// net/http tells the standard logger what an upstream sent unasked. It goes
	// where the rest goes, and only to who debugs.
	slog.SetLogLoggerLevel(slog.LevelDebug)
	slog.SetDefault(log)
	// Whoever reads the audit record from standard output may go: that is an
	// error of writing and not the end of the service.
	signal.Ignore(syscall.SIGPIPE)
	hangups := catchHangups()
	defer hangups.stop()
	if _, err := memlimit.Set(memlimit.WithRatio(memoryRatio), memlimit.WithProvider(memlimit.FromCgroup)); err != nil {
		log.Warn("the memory limit of the cgroup is not known; set GOMEMLIMIT", "err", err)
	}
	if os.Getenv("GOGC") == "" {
		collectGarbage(0)
	}
	served, err := service.New(service.Options{
		Config:      loaded,
		GRPCAddress: c.GRPCAddress,
		HTTPAddress: c.HTTPAddress,
		Version:     version,
		Log:         log,
		Stdout:      s.out,
	})
	if err != nil {
		return c.cannotStart(err, name)
	}
	if !loaded.LogJSON() { // else its reader is a program, and the log says what has started
		firstScreen(s.err, served, loaded, name)
	}
	hangups.reload(ctx, served)
	if err := served.Serve(ctx); err != nil {
		return &problem{exitFailed, "the service ended", err.Error(), "read its log above"}
	}
	return nil
}

// hangups keep SIGHUP from ending the process.
type hangups struct {
	signals   chan os.Signal
	listening sync.WaitGroup
}

func catchHangups() *hangups {
	h := &hangups{signals: make(chan os.Signal, 1)}
	signal.Notify(h.signals, syscall.SIGHUP)
	return h
}

// reload has each SIGHUP, one that has come already too, make the service read
// its configuration again.
func (h *hangups) reload(ctx context.Context, served *service.Service) {
	h.listening.Go(func() {
		for range h.signals {
			_ = served.Reload(ctx) // it logs why it does not
		}
	})
}

// stop lets SIGHUP end the process again, and waits for a reload under way.
func (h *hangups) stop() {
	signal.Stop(h.signals) // from then on nothing is sent
	close(h.signals)
	h.listening.Wait()
}

// cannotStart says why in one line. Where there is more than one reason,
// `fetchgate check` says all of them.
func (c *serveCommand) cannotStart(err error, name program) error {
	why, rest, _ := strings.Cut(strings.TrimSpace(err.Error()), "\n")
	p := &problem{code: exitUsage, what: "cannot start"}
	p.why, p.next, _ = strings.Cut(why, "; ") // our errors say what is wrong; what to do
	if rest != "" {
		p.why += fmt.Sprintf(" (and %d more)", strings.Count(rest, "\n")+1)
		p.next = ""
	}
	if c.Config != "" && p.next == "" {
		p.next = fmt.Sprintf("%s check %s", name, c.Config)
	}
	return p
}

// firstScreen tells an operator what has started and what to type next.
func firstScreen(w io.Writer, served *service.Service, loaded *config.Loaded, name program) {
	fmt.Fprintf(w, "fetchgate %s\n", version)
	spoken := ""
	switch {
	case loaded.VerifiesCallers() && loaded.ClientCertificatesOptional():
		spoken = " (TLS, with certificates of callers)"
	case loaded.VerifiesCallers():
		spoken = " (mTLS)"
	case loaded.Config.GetGrpc().GetTls() != nil:
		spoken = " (TLS)"
	}
	fmt.Fprintf(w, "  gRPC     %s%s\n", served.GRPCAddress(), spoken)
	if path := served.UnixAddress(); path != "" {
		fmt.Fprintf(w, "  unix     unix://%s\n", path)
	}
	fmt.Fprintf(w, "  HTTP     http://%s/healthz, /readyz, /metrics\n", served.HTTPAddress())
	fmt.Fprintf(w, "  config   %s\n", loaded.Source)
	rules := served.Rules()
	for i, rule := range rules[:min(len(rules), maxRulesShown)] {
		label := "rules"
		if i > 0 {
			label = ""
		}
		fmt.Fprintf(w, "  %-8s %s\n", label, rule)
	}
	if more := len(rules) - maxRulesShown; more > 0 {
		fmt.Fprintf(w, "           and %d more\n", more)
	}
	printDangers(w, loaded)
	sample, by := sampleFetch(loaded)
	if sample == "" {
		return
	}
	address, flags := served.GRPCAddress(), proofFlags(loaded, by)
	if path := served.UnixAddress(); path != "" && isOnlyUser(by) {
		address, flags = "unix://"+path, ""
	}
	fmt.Fprintf(w, "next: %s\n", nextGet(address, flags, sample, name))
}

// isOnlyUser tells that a caller proves nothing but its user, at the unix socket.
func isOnlyUser(c *configv1.Caller) bool {
	return c != nil && !c.GetDangerousAnonymous() && !hasCertificate(c) && !hasToken(c)
}

func hasCertificate(c *configv1.Caller) bool { return len(c.GetSpiffeIds())+len(c.GetDnsNames()) > 0 }

func hasToken(c *configv1.Caller) bool { return len(c.GetTokenSha256())+len(c.GetJwts()) > 0 }

// proofFlags are what a caller, nil where none has a name, shows the service: one
// proof, since two that are of two callers are refused.
func proofFlags(loaded *config.Loaded, by *configv1.Caller) (flags string) {
	if loaded.Config.GetGrpc().GetTls() != nil {
		flags = " --ca FILE"
	}
	takes := loaded.VerifiesCallers()
	byCertificate := takes && hasCertificate(by)
	if byCertificate || takes && !loaded.ClientCertificatesOptional() {
		flags += " --cert FILE --key FILE"
	}
	if hasToken(by) && !byCertificate {
		flags += " --token-file FILE"
	}
	return flags
}

// letsGo says what a mode other than enforce does.
var letsGo = map[string]string{
	"report": "is not enforced: it goes ahead, and the record says that it would be denied",
	"open":   "is not enforced: it goes ahead, and the record says that it is allowed",
}

// printDangers prints every setting that takes protection away, and where it is
// written.
func printDangers(w io.Writer, c *config.Loaded) {
	for _, said := range c.NotEnforced() {
		path, mode, _ := strings.Cut(said, ": ")
		what := "what rules deny, or no rule allows,"
		switch {
		case path == "mode":
		case isOfAllowing(c, path):
			what = "what this rule, all else of which holds, cannot decide (a condition that cannot be judged, a path with several readings)"
		default:
			what = "what this rule denies"
		}
		fmt.Fprintf(w, "  DANGER   %s: %s %s (%s)\n", said, what, letsGo[mode], c.Locate(path))
	}
	for _, setting := range c.Dangerous() {
		fmt.Fprintf(w, "  DANGER   %s (%s)\n", setting, c.Locate(setting))
	}
}

// isOfAllowing tells that a path such as "rules[3].mode" is of a rule that allows.
// Its mode counts only where the rule cannot be sure: its limits and all else that
// it says hold in every mode.
func isOfAllowing(c *config.Loaded, path string) bool {
	i := -1
	_, err := fmt.Sscanf(path, "rules[%d]", &i)
	return err == nil && i >= 0 && i < len(c.Config.GetRules()) && c.Config.GetRules()[i].GetAction() != "deny"
}

// exampleURL is what to fetch where nothing better is known.
const exampleURL = "https://example.com/"

// sampleFetch is a URL of the first origin that an allowing rule names in full and
// policy opens for GET, and a caller that may fetch it; nil is one without a name.
// The URL is empty if there is none.
func sampleFetch(c *config.Loaded) (rawURL string, by *configv1.Caller) {
	if c.Config.GetRules() == nil && !c.IsFile() {
		return exampleURL, nil
	}
	compiled, err := service.CompilePolicy(c, nil)
	if err != nil {
		return "", nil
	}
	callers := sampleCallers(c)
	for _, rule := range c.Config.GetRules() {
		for _, origin := range rule.GetOrigins() {
			u, err := url.Parse(origin)
			if err != nil || strings.Contains(origin, "*") || rule.GetAction() == "deny" {
				continue
			}
			if ports := rule.GetPorts(); len(ports) > 0 && u.Port() == "" {
				u.Host += fmt.Sprintf(":%d", ports[0])
			}
			sample := u.String() + samplePath(rule)
			if i := slices.IndexFunc(callers, func(by *configv1.Caller) bool { return isOpen(compiled, sample, by) }); i >= 0 {
				return sample, callers[i]
			}
		}
	}
	if i := slices.IndexFunc(callers, func(by *configv1.Caller) bool { return isOpen(compiled, exampleURL, by) }); i >= 0 {
		return exampleURL, callers[i]
	}
	return "", nil
}

// samplePath is the first path of a rule that stands for itself alone, or one
// that every path is like.
func samplePath(rule *configv1.Rule) string {
	for _, path := range rule.GetPaths() {
		if !strings.ContainsAny(path, "{*") {
			return path
		}
	}
	return "/"
}

// sampleCallers are those that may fetch, nil alone where nobody is asked for a
// name. Where TLS asks for a certificate, those come first that are known by it.
func sampleCallers(c *config.Loaded) []*configv1.Caller {
	callers := slices.Clone(c.Config.GetCallers())
	if len(callers) == 0 {
		return []*configv1.Caller{nil}
	}
	callers = slices.DeleteFunc(callers, func(c *configv1.Caller) bool {
		return len(c.GetRights()) > 0 && !slices.Contains(c.GetRights(), "fetch")
	})
	if c.VerifiesCallers() && !c.ClientCertificatesOptional() {
		known := func(c *configv1.Caller) int {
			if hasCertificate(c) {
				return 0
			}
			return 1
		}
		slices.SortStableFunc(callers, func(a, b *configv1.Caller) int { return known(a) - known(b) })
	}
	return callers
}

// isOpen tells whether policy allows a caller a GET, other than by its mode.
func isOpen(p *policy.Policy, rawURL string, by *configv1.Caller) bool {
	to, err := fetch.ParseURL(rawURL)
	if err != nil {
		return false
	}
	who := fetch.Caller{Name: cmp.Or(by.GetName(), anonymous), Owner: by.GetOwner()}
	d := p.Decide(policy.Ask{Caller: who, Method: "GET", Destination: to})
	return d.Denied == nil && d.WouldDeny == nil && !d.Open
}

// nextGet is a command line that fetches a URL through the service at address,
// with the flags that the service's TLS needs.
func nextGet(address, flags, rawURL string, name program) string {
	if address = reachable(address); address != defaultAddress {
		return fmt.Sprintf("%s get --address %s%s %s", name, address, flags, rawURL)
	}
	return fmt.Sprintf("%s get%s %s", name, flags, rawURL)
}

// reachable is where to connect to what listens on address: every address of
// the machine includes loopback.
func reachable(address string) string {
	a, err := netip.ParseAddrPort(address)
	if err != nil || !a.Addr().IsUnspecified() {
		return address
	}
	return net.JoinHostPort("127.0.0.1", fmt.Sprint(a.Port()))
}

// newLog is the log that the configuration asks for.
func newLog(w io.Writer, c *config.Loaded) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel()}
	if c.LogJSON() {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
