// Command fidelity says the same requests with a stock client library, with
// net/http and with fetchgate, to upstreams that record every byte, and writes
// what arrived and what came back as the tables of docs/fidelity.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// limit is for everything; it takes about a second.
const limit = time.Minute

func main() {
	page := flag.String("page", "docs/fidelity.md", "the page")
	python := flag.String("python", "bin/fidelity/bin/python", "a Python that has the stock library; make deps-fidelity makes this one")
	isCheck := flag.Bool("check", false, "without Python, fail if the page is not what net/http and fetchgate do today")
	isWrite := flag.Bool("write", false, "write into the page, not to standard output")
	flag.Parse()
	if flag.NArg() > 0 || *isCheck && *isWrite {
		flag.Usage()
		os.Exit(2)
	}
	// What net/http has to say about these upstreams is on the page.
	log.SetOutput(io.Discard)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *page, *python, *isCheck, *isWrite); err != nil {
		fmt.Fprintln(os.Stderr, "fidelity:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, path, python string, isCheck, isWrite bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if isCheck {
		_, err := check(ctx, string(page))
		return err
	}
	r, err := ask(ctx, python)
	if err != nil {
		return err
	}
	if !isWrite {
		fmt.Print(r.render())
		return nil
	}
	written, err := splice(string(page), r.render())
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(written), 0o644)
}

// ask makes all probes with all three clients.
func ask(ctx context.Context, python string) (r results, err error) {
	if r.stock, r.versions, err = askStock(ctx, python, probes); err != nil {
		return r, err
	}
	r.versions += ", " + runtime.Version()
	return r, r.askOurs(ctx)
}

// askOurs makes all probes with the clients that need no Python.
func (r *results) askOurs(ctx context.Context) (err error) {
	if r.netHTTP, err = askNetHTTP(ctx, probes); err != nil {
		return err
	}
	r.fetchgate, err = askFetchgate(ctx, probes)
	return err
}

// check compares a page with what net/http and fetchgate do today. The stock
// library is taken at the page's word.
func check(ctx context.Context, page string) (r results, err error) {
	if r.stock, r.versions, err = readStock(page); err != nil {
		return r, err
	}
	if err := r.askOurs(ctx); err != nil {
		return r, err
	}
	want, err := splice(page, r.render())
	if err != nil {
		return r, err
	}
	return r, difference(page, want)
}

// difference names the first line of a page that should be another.
func difference(page, want string) error {
	if page == want {
		return nil
	}
	is, should := strings.Split(page, "\n"), strings.Split(want, "\n")
	for i := range min(len(is), len(should)) {
		if is[i] != should[i] {
			return fmt.Errorf("line %d of the page is\n%s\nand would be\n%s\nRun make fidelity if that is meant", i+1, is[i], should[i])
		}
	}
	return errors.New("the page has lines too many or too few; run make fidelity")
}
