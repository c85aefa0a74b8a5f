package body

import (
	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// KindError says which kind of request body is wrong, and why.
type KindError struct {
	// Kind is the field of the contract's Body, "json"; empty when none is set.
	Kind string
	// Message says what is wrong and what to do, without quoting the body.
	Message string
}

func (e *KindError) Error() string { return e.Message }

// Encode encodes a body of the contract. The error is a *KindError.
func Encode(m *fetchgatev1.Body) (Encoded, error) {
	switch kind := m.GetKind().(type) {
	case *fetchgatev1.Body_Raw:
		return Encoded{Source: Raw(kind.Raw)}, nil
	case *fetchgatev1.Body_Json:
		encoded, err := JSON(kind.Json)
		if err != nil {
			return Encoded{}, &KindError{"json", err.Error()}
		}
		return encoded, nil
	case *fetchgatev1.Body_Form:
		params := make([]fetch.Param, len(kind.Form.GetFields()))
		for i, f := range kind.Form.GetFields() {
			params[i] = fetch.Param{Name: f.GetName(), Value: f.GetValue()}
		}
		return Form(params), nil
	}
	return Encoded{}, &KindError{"", "the body has no kind; set form, json or raw"}
}
