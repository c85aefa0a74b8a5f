package service

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/credential"
	"github.com/fetchgate/fetchgate/service/policy"
)

// HoldCredentials binds the credentials of a configuration and reads their
// secrets; its errors say the file, the line and the column, and no secret.
// Secrets that previous, which may be nil, has too keep their versions. A nil log
// discards what is said later, when secrets change.
func HoldCredentials(c *config.Loaded, previous *credential.Store, log *slog.Logger) (*credential.Store, error) {
	list := c.Config.GetCredentials()
	bindings := make([]credential.Binding, len(list))
	wrong := clashes(c.Config)
	for i, one := range list {
		b, err := policy.CompileBinding(fmt.Sprintf("credentials[%d]", i), one)
		if err != nil {
			wrong = append(wrong, err)
		}
		bindings[i] = b
	}
	store, err := credential.NewStore(list, credential.Options{Bindings: bindings, File: c.File, Previous: previous, Log: log})
	if err != nil {
		wrong = append(wrong, err)
	}
	if wrong != nil {
		return nil, c.Refuse(faults(errors.Join(wrong...)))
	}
	return store, nil
}

// clashes are the rules that apply two credentials which write the same.
func clashes(c *configv1.Config) (found []error) {
	held := map[string]*configv1.HeldCredential{}
	for _, one := range c.GetCredentials() {
		held[one.GetName()] = one
	}
	for i, rule := range c.GetRules() {
		taken := map[string]string{}
		for j, name := range rule.GetCredentials() {
			if held[name] == nil {
				continue // config refuses it
			}
			_, place := credential.KindOf(held[name])
			what := strings.ToLower(place.String())
			if other := taken[what]; other != "" {
				found = append(found, &credential.SettingError{
					Path:    fmt.Sprintf("rules[%d].credentials[%d]", i, j),
					Message: fmt.Sprintf("%q and %q both write %s; keep one", other, name, place),
				})
			}
			taken[what] = name
		}
	}
	return found
}
