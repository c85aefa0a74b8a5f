package main

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/fetchgate/fetchgate/service/file"
)

//go:embed first.yaml
var firstConfiguration []byte

type initCommand struct {
	File string `arg:"" optional:"" default:"fetchgate.yaml" help:"The file to write (${default})."`
}

// Help is the end of the command's help.
func (initCommand) Help() string {
	return "Nothing is overwritten.\n\nExit codes: 0 written; 2 it could not be, or the file is there."
}

// Run writes the file.
func (c *initCommand) Run(s streams, name program) error {
	f, err := os.OpenFile(c.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return &problem{exitUsage, c.File + " is there already", "it was left as it is", fmt.Sprintf("%s check %s, or name another file", name, c.File)}
	}
	if err == nil {
		_, err = f.Write(firstConfiguration)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return &problem{exitUsage, "cannot write " + c.File, file.Cause(err).Error(), "name a file in a directory that can be written to"}
	}
	_, err = fmt.Fprintf(s.out, "wrote %s\n  next: change the rules in it, then %s check %s\n  then: %s serve --config %s\n", c.File, name, c.File, name, c.File)
	return err
}
