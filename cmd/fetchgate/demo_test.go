package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// demoHere runs the demo with a smaller stream.
func demoHere(ctx context.Context, broken string) result {
	var out, err lockedBuffer
	s := streams{strings.NewReader(""), &out, &err}
	code := tell(s.err, runDemo(ctx, s, "bin/fetchgate", demoOptions{broken: broken, streamBytes: 8 << 20}))
	return result{code, out.String(), err.String()}
}

func TestDemo(t *testing.T) {
	r := demoHere(t.Context(), "")
	r.wantCode(t, exitOK)
	if strings.Contains(r.out, "✗") || !strings.Contains(r.out, "next: bin/fetchgate serve\n") {
		t.Errorf("the demo prints\n%s\n%s", r.out, r.err)
	}
	if !strings.Contains(r.out, "✓ explain says of http://10.0.0.1/: denied, rule public: ") {
		t.Errorf("explain is not shown:\n%s", r.out)
	}
	for _, step := range demoSteps {
		if !strings.Contains(r.out, " "+step.name+": ") {
			t.Errorf("the step %s is not shown:\n%s", step.name, r.out)
		}
	}
}

// TestDemoBreaks: each step can fail, and then it alone does.
func TestDemoBreaks(t *testing.T) {
	names := strings.Split(stepNames, ",")
	if len(names) != len(demoSteps) {
		t.Errorf("the command line offers %d steps of %d", len(names), len(demoSteps))
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			r := demoHere(t.Context(), name)
			r.wantCode(t, exitFailed)
			if !strings.HasPrefix(r.err, "fetchgate: the demo does not show what it should: "+name+"\n") {
				t.Errorf("stderr:\n%s", r.err)
			}
			for section := range strings.SplitSeq(r.out, "\n\n") {
				if _, after, found := strings.Cut(section, ". "); found {
					step, _, _ := strings.Cut(after, ":")
					if strings.Contains(section, "✗") != (step == name) {
						t.Errorf("broken is %s, and %s shows\n%s", name, step, section)
					}
				}
			}
		})
	}
}

// TestDemoKeeps: what it leaves behind answers the question that it ends with.
func TestDemoKeeps(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kept")
	var out, err lockedBuffer
	s := streams{strings.NewReader(""), &out, &err}
	if code := tell(s.err, runDemo(t.Context(), s, "bin/fetchgate", demoOptions{streamBytes: 1 << 20, keep: dir})); code != exitOK {
		t.Fatalf("exit code %d\n%s%s", code, out.String(), err.String())
	}
	_, line, _ := strings.Cut(out.String(), "next: bin/fetchgate policy diff ")
	r := runHere(t.Context(), "", append([]string{"policy", "diff"}, strings.Fields(line)...)...)
	if r.code != exitFailed || !strings.HasPrefix(r.out, "1 caller, 3 requests would flip\n") || !strings.Contains(r.out, "no-reports") {
		t.Errorf("policy diff exits with %d and prints\n%s%s", r.code, r.out, r.err)
	}
	again := tell(s.err, runDemo(t.Context(), s, "bin/fetchgate", demoOptions{streamBytes: 1 << 20, keep: dir}))
	if again != exitUsage {
		t.Errorf("a directory that is there: exit code %d", again)
	}
}

// TestDemoKeepsRelative: a directory may be named from where one is, and one that
// nothing came of does not stay.
func TestDemoKeepsRelative(t *testing.T) {
	t.Chdir(t.TempDir())
	var out, err lockedBuffer
	s := streams{strings.NewReader(""), &out, &err}
	if code := tell(s.err, runDemo(t.Context(), s, "bin/fetchgate", demoOptions{streamBytes: 1 << 20, keep: "kept"})); code != exitOK {
		t.Fatalf("exit code %d\n%s%s", code, out.String(), err.String())
	}
	r := runHere(t.Context(), "", "policy", "diff", "kept/"+demoSettings, "kept/"+demoNext, "--against", "kept/"+demoAudit)
	if r.code != exitFailed || !strings.HasPrefix(r.out, "1 caller, 3 requests would flip\n") {
		t.Errorf("policy diff exits with %d and prints\n%s%s", r.code, r.out, r.err)
	}
	ended := &demo{demoOptions: demoOptions{keep: "ended"}}
	if err := ended.makeDir(); err != nil {
		t.Fatal(err)
	}
	ended.close()
	if _, err := os.Stat("ended"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a demo that did not start leaves its directory: %v", err)
	}
}

func TestDemoInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	demoHere(ctx, "").wantCode(t, exitInterrupted)
}

// TestDemoWhole runs the demo as users do.
func TestDemoWhole(t *testing.T) {
	if testing.Short() {
		t.Skip("it streams 256 MiB")
	}
	r := runHere(t.Context(), "", "demo")
	r.wantCode(t, exitOK)
	if !strings.Contains(r.out, "256 MiB arrived") {
		t.Errorf("the demo prints\n%s", r.out)
	}
}
