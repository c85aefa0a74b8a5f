package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

// demoReports is how often the step policy asks for what the next policy denies.
const demoReports = 3

// demoDenial is the rule that the next policy has more.
const demoDenial = `  - name: no-reports
    action: deny
    origins: ["http://*", "https://*"]
    ports: [%s]
    paths: ["/reports/*"]
`

func (d *demo) stepPolicy(ctx context.Context, c *checks) {
	before := len(d.upstream.requests())
	var last *fetchgatev1.FetchResponse
	for i := range demoReports {
		answer, err := d.ask(ctx, fmt.Sprintf("%s/reports/%d", d.upstream.plain, i+1))
		if err != nil {
			c.that(false, "fetchgate answers with an error: %s", escaped(err.Error()))
			return
		}
		last = answer
	}
	seen := d.upstream.requests()[before:]
	c.that(len(seen) == demoReports, "the upstream recorded %s", lines(seen))
	err := d.recorded(ctx, last.GetReport().GetFetchId())
	c.that(err == nil, "the audit record has the last of them, %s", escaped(last.GetReport().GetFetchId()))
	if err != nil {
		return
	}
	told, err := d.flips()
	c.that(errors.Is(err, found) && strings.HasPrefix(told, fmt.Sprintf("1 caller, %d requests would flip\n", demoReports)),
		"policy diff, with a rule that denies them:\n%s", indented(told))
}

func indented(text string) string {
	var lines []string
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		if line != "" {
			lines = append(lines, "       "+line)
		}
	}
	return strings.Join(lines, "\n")
}

// flips tells what a rule more would flip, as policy diff does.
func (d *demo) flips() (string, error) {
	_, port, _ := strings.Cut(strings.TrimPrefix(d.upstream.plain, "http://"), ":")
	next := fmt.Appendf(bytes.Clone(d.settings), demoDenial, port)
	if err := os.WriteFile(d.file(demoNext), next, 0o600); err != nil {
		return "", err
	}
	var out bytes.Buffer
	diff := policyDiff{Old: d.file(demoSettings), New: d.file(demoNext), Against: d.file(demoAudit), Format: "text"}
	err := diff.Run(streams{out: &out, err: d.err}, "fetchgate")
	return out.String(), err
}

// recorded waits until the audit record has the line of a fetch, which is
// written behind its answer.
func (d *demo) recorded(ctx context.Context, id string) error {
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		text, err := os.ReadFile(d.file(demoAudit))
		if err != nil || bytes.Contains(text, []byte(`"`+id+`"`)) {
			return err
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
