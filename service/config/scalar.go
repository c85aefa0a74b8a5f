package config

import (
	"fmt"
	"math"
	"regexp"
	"strconv"

	"buf.build/go/protoyaml"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxDurationBytes bounds the text of a duration and the work to read it.
const maxDurationBytes = 32

var (
	wholeNumber  = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)
	numberAlone  = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`)
	durationName = protoreflect.FullName("google.protobuf.Duration")
)

func isDuration(field protoreflect.FieldDescriptor) bool {
	return field.Message() != nil && field.Message().FullName() == durationName
}

// scalarName names what the field needs.
func scalarName(field protoreflect.FieldDescriptor) string {
	switch field.Kind() {
	case protoreflect.MessageKind:
		return "a duration such as 30s"
	case protoreflect.BoolKind:
		return "true or false"
	case protoreflect.StringKind:
		return "a text"
	case protoreflect.DoubleKind:
		return "a number"
	}
	return "a whole number"
}

// checkScalar says what is wrong with the text of a value; empty means nothing.
// Ranges are not its concern.
func checkScalar(n *yaml.Node, field protoreflect.FieldDescriptor) string {
	switch field.Kind() {
	case protoreflect.MessageKind:
		return checkDuration(n.Value)
	case protoreflect.BoolKind:
		if n.Tag != "!!bool" || n.Value != "true" && n.Value != "false" {
			return fmt.Sprintf("is %s; write true or false", shownText(n.Value))
		}
	case protoreflect.Int32Kind:
		return checkWhole(n.Value, 32)
	case protoreflect.Int64Kind:
		return checkWhole(n.Value, 64)
	case protoreflect.DoubleKind:
		number, err := strconv.ParseFloat(n.Value, 64)
		if err != nil || math.IsInf(number, 0) || math.IsNaN(number) {
			return fmt.Sprintf("is %s; write a number such as 12.5", shownText(n.Value))
		}
	}
	return ""
}

// checkWhole refuses units, exponents and other bases: what they mean differs
// from tool to tool.
func checkWhole(text string, bits int) string {
	if !wholeNumber.MatchString(text) {
		return fmt.Sprintf("is %s; write a whole number in digits alone, such as 1048576", shownText(text))
	}
	if _, err := strconv.ParseInt(text, 10, bits); err != nil {
		return fmt.Sprintf("is %s, far out of range; write a smaller number", shownText(text))
	}
	return ""
}

func checkDuration(text string) string {
	if numberAlone.MatchString(text) && len(text) < maxDurationBytes {
		return fmt.Sprintf("is %s without a unit; write %ss if you mean seconds", text, text)
	}
	if len(text) <= maxDurationBytes {
		if d, err := protoyaml.ParseDuration(text); err == nil && d.CheckValid() == nil {
			return ""
		}
	}
	return fmt.Sprintf("is %s; write a duration in h, m, s or ms, such as 30s, 1.5s or 250ms", shownText(text))
}

// shownText quotes a text of the file for a message, and cuts a long one.
func shownText(text string) string {
	const most = 40
	if runes := []rune(text); len(runes) > most {
		return strconv.Quote(string(runes[:most])) + "..."
	}
	return strconv.Quote(text)
}
