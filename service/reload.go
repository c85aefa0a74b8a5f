package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/engine"
	"github.com/fetchgate/fetchgate/service/server"
)

// watchEvery is how often the files of the configuration are looked at.
const watchEvery = time.Second

// retryEvery is after how many looks a configuration that was refused is tried
// again although its file is the same: it may name another that was mended.
const retryEvery = 10

var errNoFile = errors.New("there is no configuration file")

// reloads is what came of the changes of the configuration.
type reloads struct {
	one sync.Mutex // held by the reload under way

	mu      sync.Mutex // guards what follows
	inForce server.InForce
	// waiting are the settings that wait for a restart.
	waiting []string
	changed chan struct{} // closed with the next change of the above
}

// say changes what is told of the configuration in force.
func (r *reloads) say(change func(*server.InForce)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.inForce)
	if r.changed != nil {
		close(r.changed)
	}
	r.changed = make(chan struct{})
}

// told is what was said last, and a channel that is closed when there is more.
func (r *reloads) told() (server.InForce, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.inForce, r.changed
}

// Reload reads the configuration file again and has what it says take the place
// of what is in force, whole or not at all. The error says why it is refused;
// the log, the metrics and /readyz?verbose then say it too. A file that says the
// same changes nothing.
func (s *Service) Reload(ctx context.Context) error {
	s.reloads.one.Lock()
	defer s.reloads.one.Unlock()
	last := s.current.Load()
	if !last.config.IsFile() {
		s.log.WarnContext(ctx, "there is no configuration file to read again; name one with --config and start again")
		return errNoFile
	}
	next, digest, err := last.config.Reload()
	if err == nil && next.Equal(last.config) {
		_ = last.credentials.Refresh() // it has told what it cannot read
		s.unchanged(ctx, last)
		return nil
	}
	var g *generation
	if err == nil {
		g, err = s.prepare(next)
	}
	if err != nil {
		s.refuseReload(ctx, digest, err)
		return err
	}
	s.replace(ctx, last, g)
	return nil
}

// prepare compiles next and checks what it says of the listeners that are open.
func (s *Service) prepare(next *config.Loaded) (*generation, error) {
	if err := next.CheckListen(s.grpcAddress); err != nil {
		return nil, err
	}
	g, err := s.buildGeneration(next)
	if err != nil {
		return nil, err
	}
	return g, s.recorder.Configure(g.evidence)
}

// replace has g take the place of last: for new RPCs at once, for those under
// way as far as g denies what they are about.
func (s *Service) replace(ctx context.Context, last, g *generation) {
	s.refreshTLS() // g may be there for lists of revoked certificates
	s.enforce(g)
	if g.tls.RootsID != last.tls.RootsID || g.tls.MinVersion != last.tls.MinVersion {
		g.callers.RetryKeys() // they are fetched with it
	}
	waiting := g.config.WaitForRestart(s.config)
	s.announce(g, waiting)
	s.engine.Withdraw(engine.Withdrawal{
		Generation: g.config.Generation, Judge: g.judge, Credentials: g.credentials,
		Grace: g.config.RevokeGrace(), Since: time.Now(),
	})
	s.transport.Forget(g.keeps(last))
	s.log.InfoContext(ctx, "a new configuration is in force", "config", g.config.Source,
		"generation", g.config.Generation, "sha256", g.config.Digest, "dangerous", g.config.Dangerous(), "not_enforced", g.config.NotEnforced())
	if len(waiting) > 0 && !equalWords(waiting, last.config.WaitForRestart(s.config)) {
		s.log.WarnContext(ctx, "settings of the new configuration wait for a restart; the rest is in force", "settings", waiting)
	}
}

func equalWords(a, b []string) bool { return strings.Join(a, " ") == strings.Join(b, " ") }

// announce tells that g is in force.
func (s *Service) announce(g *generation, waiting []string) {
	s.reloads.say(func(f *server.InForce) {
		f.Generation, f.Digest, f.Refused, f.RefusedDigest = g.config.Generation, "", "", ""
		if g.config.IsFile() {
			f.Digest = g.config.Digest
		}
		s.reloads.waiting = waiting
	})
}

// refuseReload tells why a change is not in force; what was stays.
func (s *Service) refuseReload(ctx context.Context, digest string, err error) {
	if said, _ := s.reloads.told(); said.Refused == err.Error() && said.RefusedDigest == digest {
		return // it was tried again
	}
	s.recorder.ConfigureFailed()
	s.reloads.say(func(f *server.InForce) {
		f.Refused, f.RefusedDigest = err.Error(), digest
		f.Refusals++
	})
	last := s.current.Load().config
	what := "the configuration is refused; the last good one stays in force"
	if digest == last.Digest { // then it is as it was, and err names the file
		what = "a file that the configuration names is refused; what was good last stays in force"
	}
	s.log.ErrorContext(ctx, what, "err", err, "generation", last.Generation, "sha256", digest)
}

// unchanged ends what was said of a change that was refused and taken back.
func (s *Service) unchanged(ctx context.Context, g *generation) {
	said, _ := s.reloads.told()
	if said.Refused == "" {
		s.log.DebugContext(ctx, "the configuration says the same as before", "generation", g.config.Generation)
		return
	}
	if err := s.recorder.Configure(g.evidence); err != nil {
		s.log.ErrorContext(ctx, "the metrics do not name the configuration in force", "err", err)
	}
	s.reloads.say(func(f *server.InForce) { f.Refused, f.RefusedDigest = "", "" })
	s.log.InfoContext(ctx, "the configuration in force is the one of the file again", "generation", g.config.Generation)
}

// watch reloads when the files of the configuration have changed, until ctx ends.
func (s *Service) watch(ctx context.Context) {
	ticks := s.ticks
	if ticks == nil {
		ticker := time.NewTicker(watchEvery)
		defer ticker.Stop()
		ticks = ticker.C
	}
	w := watcher{}
	for {
		select {
		case <-ticks:
			if c := s.current.Load().config; c.IsFile() && c.Watch() && w.isDue(c) {
				_ = s.Reload(ctx) // it has told why
			}
		case <-ctx.Done():
			return
		}
	}
}

// watcher decides by the looks of files when to read them.
type watcher struct {
	read   config.Stamp // when they were read last
	before config.Stamp // at the last look
	looks  int          // since they were read
}

// isDue looks at the files of c and tells to read them: they have changed, and
// not within the last look, so that a file that is being written is left alone.
// What has not changed is read again from time to time.
func (w *watcher) isDue(c *config.Loaded) bool {
	now := config.StampOf(c.Files())
	settled := now.Equal(w.before)
	w.before = now
	w.looks++
	if !settled || now.Equal(w.read) && w.looks < retryEvery {
		return false
	}
	w.read, w.looks = now, 0
	return true
}

// describe writes what /readyz?verbose says of the configuration.
func (r *reloads) describe(w io.Writer, source string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(w, "config: %s\ngeneration: %d\n", source, r.inForce.Generation)
	if r.inForce.Digest != "" {
		fmt.Fprintf(w, "config_sha256: %s\n", r.inForce.Digest)
	}
	if len(r.waiting) > 0 {
		fmt.Fprintf(w, "waits_for_restart: %s\n", strings.Join(r.waiting, ", "))
	}
	if r.inForce.Refused != "" {
		what := "the file"
		if r.inForce.RefusedDigest == r.inForce.Digest {
			what = "a file that the configuration names"
		}
		// Why is not for everybody: it quotes the file.
		fmt.Fprintf(w, "refused: %s has changed and is not in force; the log says why\n", what)
	}
}
