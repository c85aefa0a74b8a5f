package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	module = "github.com/fetchgate/fetchgate/"

	// buildLimit is for building with nothing in the build cache.
	buildLimit = 5 * time.Minute
	// shortCommit is how much of a commit's name is shown.
	shortCommit = 12
)

// build puts the binaries fetchgate, naive and bench of this tree into dir.
func build(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	_, err := output(ctx, "", "go", "build", "-o", dir, module+"cmd/fetchgate", module+"bench/naive", module+"bench")
	return err
}

// buildRevision puts the binary fetchgate of a git revision into dir/revision
// and returns the revision's commit. The files come from git archive: nothing in
// the repository changes.
func buildRevision(ctx context.Context, dir, revision string) (commit string, err error) {
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	// --end-of-options: what begins with - is no option of git.
	commit, err = output(ctx, "", "git", "rev-parse", "--verify", "--end-of-options", revision+"^{commit}")
	if err != nil {
		return "", fmt.Errorf("%s is no revision: %w", revision, err)
	}
	top, err := output(ctx, "", "git", "rev-parse", "--show-toplevel")
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "revision")
	tree, archive := filepath.Join(dir, "tree"), filepath.Join(dir, "tree.tar")
	if err := os.MkdirAll(tree, 0o700); err != nil {
		return "", err
	}
	for _, step := range []struct {
		dir  string
		args []string
	}{
		{top, []string{"git", "archive", "--format=tar", "-o", archive, commit}},
		{tree, []string{"tar", "-xf", archive}},
		{tree, []string{"go", "build", "-o", dir, "./cmd/fetchgate"}},
	} {
		if _, err := output(ctx, step.dir, step.args...); err != nil {
			return "", fmt.Errorf("%s: %w", revision, err)
		}
	}
	return commit[:min(len(commit), shortCommit)], nil
}

// output runs a command in dir, which is the current one if empty, and returns
// what it wrote to standard output.
func output(ctx context.Context, dir string, args ...string) (string, error) {
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(args[:2], " "), err, &stderr)
	}
	return strings.TrimSpace(stdout.String()), nil
}
