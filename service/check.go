package service

import (
	"errors"

	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/policy"
)

// Check reads the configuration at path and says all that would keep it from
// being served, in the order of the file: what stands in its rules, callers and
// credentials beside what config.Load finds. What that does not let through to
// its last check hides the rest. The error is a *config.Error.
func Check(path string) (*config.Loaded, *policy.Policy, error) {
	loaded, err := config.Examine(path)
	if loaded == nil {
		return nil, nil, err
	}
	compiled, wrongRules := CompilePolicy(loaded, nil)
	_, wrongCallers := CompileCallers(loaded, nil)
	_, wrongCredentials := HoldCredentials(loaded, nil, nil)
	var refused []*config.Error
	for _, err := range []error{err, wrongRules, wrongCallers, wrongCredentials} {
		if wrong, ok := errors.AsType[*config.Error](err); ok {
			refused = append(refused, wrong)
		}
	}
	if all := config.Together(refused...); all != nil {
		return nil, nil, all
	}
	return loaded, compiled, nil
}
