// Command fetchgate performs outbound HTTP for other services over gRPC: it is
// the server, and a caller to try a server with.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"runtime"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
)

// version is set when a release is built: -ldflags "-X main.version=v1.2.3".
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // from then on a second signal ends the process at once
	os.Exit(run(ctx, os.Args, streams{os.Stdin, os.Stdout, os.Stderr}))
}

// streams are where a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// program is how the user called us, so that what we tell them to type works
// where they are.
type program string

type commands struct {
	Serve   serveCommand   `cmd:"" help:"Run the service."`
	Get     getCommand     `cmd:"" help:"Fetch one URL through a service."`
	Explain explainCommand `cmd:"" help:"See what policy decides about a request, and why."`
	Check   checkCommand   `cmd:"" help:"Check a configuration file."`
	Policy  policyCommand  `cmd:"" help:"Test, compare, mend and import rules."`
	Init    initCommand    `cmd:"" help:"Write a first configuration, with comments."`
	Schema  schemaCommand  `cmd:"" help:"Print the JSON Schema of the configuration, for editors."`
	Token   tokenCommand   `cmd:"" help:"Make a token for a caller, and its digest for the configuration."`
	Demo    demoCommand    `cmd:"" help:"See it fetch, stream, deny and explain, all on loopback."`
	Help    helpCommand    `cmd:"" help:"Read what a word of an error means, and what to do."`
	Version versionCommand `cmd:"" help:"Print the version."`

	PrintVersion kong.VersionFlag `name:"version" help:"Print the version."`
}

// commandNames are those of the commands above.
const commandNames = "serve,get,explain,check,policy,init,schema,token,demo,help,version"

// run carries out the command line and returns the exit code. The end of ctx
// is the user's wish to stop.
func run(ctx context.Context, args []string, s streams) int {
	name := program(args[0])
	exited := -1
	parser, err := kong.New(&commands{},
		kong.Name("fetchgate"),
		kong.Description("Outbound HTTP for other services, under policy."),
		kong.Writers(s.out, s.err),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Exit(func(code int) { exited = code }),
		kong.KindMapper(reflect.String, kong.MapperFunc(asTyped)),
		kong.NamedMapper("given", kong.MapperFunc(asGiven)),
		kong.TypeMapper(reflect.TypeFor[time.Duration](), kong.MapperFunc(asDuration)),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(s, name),
		kong.Vars{"defaultAddress": defaultAddress, "steps": stepNames, "version": versionLine()},
	)
	if err != nil {
		panic(err) // the struct tags above are wrong
	}
	parsed, err := parser.Parse(args[1:])
	if exited >= 0 { // --help or --version has answered
		return exited
	}
	if err != nil {
		what, next := withAnswer(err)
		return tell(s.err, &problem{exitUsage, what, "", cmp.Or(next, usageHint(name, err))})
	}
	return tell(s.err, parsed.Run())
}

func usageHint(name program, err error) string {
	var wrong *kong.ParseError
	if errors.As(err, &wrong) {
		if node := wrong.Context.Selected(); node != nil {
			return fmt.Sprintf("%s %s --help", name, node.Path())
		}
	}
	return fmt.Sprintf("%s --help", name)
}

type versionCommand struct{}

// Run prints which build this is.
func (versionCommand) Run(s streams) error {
	_, err := fmt.Fprintln(s.out, versionLine())
	return err
}

func versionLine() string { return fmt.Sprintf("fetchgate %s %s", version, runtime.Version()) }
