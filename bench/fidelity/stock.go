package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"

	"github.com/fetchgate/fetchgate/service/fetch"
)

//go:embed stock.py
var stockProgram string

// stockAnswer is what stock.py writes. All texts are latin-1.
type stockAnswer struct {
	Python, Requests, Urllib3 string
	Replies                   []stockReply
}

type stockReply struct {
	Protocol string
	Status   int
	Reason   latin1
	Fields   [][2]latin1
	Chunks   []latin1
	Rest     latin1
	Failure  string
}

// latin1 is JSON text whose characters stand for bytes.
type latin1 string

func (l *latin1) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	bytes := make([]byte, 0, len(text))
	for _, r := range text {
		if r > 0xff {
			return fmt.Errorf("the character %q stands for no byte", r)
		}
		bytes = append(bytes, byte(r))
	}
	*l = latin1(bytes)
	return nil
}

// askStock makes the calls of the probes in one run of Python. It also says
// which versions it ran.
func askStock(ctx context.Context, python string, probes []probe) (column, string, error) {
	upstreams, err := listenAll(probes)
	if err != nil {
		return nil, "", err
	}
	defer closeAll(upstreams)
	answer, err := runStock(ctx, python, probes, upstreams)
	if err != nil {
		return nil, "", err
	}
	seen := make(column, len(probes))
	for i, r := range answer.Replies {
		seen[i] = see(upstreams[i], r.reply())
	}
	return seen, fmt.Sprintf("requests %s, urllib3 %s, Python %s", answer.Requests, answer.Urllib3, answer.Python), nil
}

func runStock(ctx context.Context, python string, probes []probe, upstreams []*upstream) (*stockAnswer, error) {
	type call struct {
		Call string `json:"call"`
		URL  string `json:"url"`
	}
	calls := make([]call, len(probes))
	for i, p := range probes {
		calls[i] = call{p.call, "http://" + upstreams[i].authority()}
	}
	in, err := json.Marshal(calls)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, python, "-I", "-c", stockProgram)
	// Nothing of the environment may choose a proxy or a password.
	cmd.Env = []string{"NETRC=" + os.DevNull}
	cmd.Stdin = bytes.NewReader(in)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("the stock library did not run (make deps-fidelity gets it): %w\n%s", err, &said)
	}
	answer := new(stockAnswer)
	if err := json.Unmarshal(out.Bytes(), answer); err != nil {
		return nil, fmt.Errorf("stock.py: %w", err)
	}
	if len(answer.Replies) != len(probes) {
		return nil, fmt.Errorf("stock.py answered %d of %d probes", len(answer.Replies), len(probes))
	}
	return answer, nil
}

func (r stockReply) reply() reply {
	got := reply{rest: string(r.Rest), failure: r.Failure}
	for _, c := range r.Chunks {
		got.chunks = append(got.chunks, string(c))
	}
	if r.Status == 0 {
		return got
	}
	got.head = &fetch.Head{Protocol: r.Protocol, Status: r.Status, Reason: []byte(r.Reason)}
	for _, f := range r.Fields {
		got.head.Fields = append(got.head.Fields, fetch.Field{Name: string(f[0]), Value: []byte(f[1])})
	}
	return got
}
