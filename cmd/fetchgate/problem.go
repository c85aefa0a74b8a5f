package main

import (
	"errors"
	"fmt"
	"io"
)

// The exit codes. They are part of what scripts rely on and never change their
// meaning.
const (
	exitOK          = 0
	exitFailed      = 1   // the upstream gave no usable response, or a check found something
	exitUsage       = 2   // the command line, a file that it names, or the configuration is wrong
	exitRPC         = 3   // fetchgate did not carry out the fetch
	exitDenied      = 4   // policy denied the fetch
	exitOutput      = 8   // the body could not be written
	exitStatus      = 22  // the status is 400 or more, with --fail
	exitInterrupted = 130 // the user ended it
)

const exitCodesHelp = `Exit codes: 0 a response came, whatever its status; 1 the upstream gave none; ` +
	`2 wrong usage; 3 fetchgate did not carry out the fetch; 4 denied by policy; ` +
	`8 the body could not be written; 22 status 400 or more with --fail; 130 interrupted.`

// problem is an error in the form in which its reader can act on it. why and
// next may be empty; without what, only the exit code tells.
type problem struct {
	code int
	what string
	why  string
	next string
}

func (p *problem) Error() string {
	if p.why == "" {
		return p.what
	}
	return p.what + ": " + p.why
}

// tell writes err for its reader in at most three lines and returns the exit
// code. An error that is not a problem is one of writing.
func tell(w io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	p := asProblem(err)
	if p.what == "" {
		return p.code
	}
	fmt.Fprintf(w, "fetchgate: %s\n", p.what)
	if p.why != "" {
		fmt.Fprintf(w, "  %s\n", p.why)
	}
	if p.next != "" {
		fmt.Fprintf(w, "  next: %s\n", p.next)
	}
	return p.code
}

// asProblem is err, or what it means.
func asProblem(err error) *problem {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	return writing(err)
}

func writing(err error) *problem {
	return &problem{exitOutput, "cannot write the body", err.Error(), "make room for it, or write it elsewhere with -o FILE"}
}
