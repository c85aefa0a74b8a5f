package main

import (
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/alecthomas/kong"
)

// asTyped takes an argument byte for byte. kong's own mapper turns bytes that
// are not UTF-8, which values of fields and names of files may have, into U+FFFD.
func asTyped(c *kong.DecodeContext, target reflect.Value) error {
	token, err := c.Scan.PopValue("string")
	if err != nil {
		return err
	}
	target.SetString(fmt.Sprint(token.Value))
	return nil
}

// asGiven takes an argument that says something. An empty one is most likely a
// variable of the shell that is not set.
func asGiven(c *kong.DecodeContext, target reflect.Value) error {
	if err := asTyped(c, target); err != nil {
		return err
	}
	if target.String() == "" {
		return errors.New("the value is empty; give one, or leave the flag out")
	}
	return nil
}

// asDuration takes a duration with its unit.
func asDuration(c *kong.DecodeContext, target reflect.Value) error {
	token, err := c.Scan.PopValue("duration")
	if err != nil {
		return err
	}
	text := fmt.Sprint(token.Value)
	d, err := time.ParseDuration(text)
	if err == nil {
		target.SetInt(int64(d))
		return nil
	}
	if _, err := time.ParseDuration(text + "s"); err == nil {
		return fmt.Errorf("%q has no unit; for seconds write %ss", text, text)
	}
	return fmt.Errorf("%q is not a duration; write one like 500ms, 10s or 2m", text)
}
