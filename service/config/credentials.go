package config

import (
	"fmt"
	"slices"
	"strings"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// checkCredentials refuses credentials whose names are not unique, that are bound
// to nobody or go in the clear, and rules that name some that are not there. What
// files and the environment hold is read by package credential.
func (l *Loaded) checkCredentials(refuse func(path, message string)) {
	callers, named := map[string]bool{}, map[string]bool{}
	for _, caller := range l.Config.GetCallers() {
		callers[caller.GetName()] = true
	}
	for i, c := range l.Config.GetCredentials() {
		path := fmt.Sprintf("credentials[%d]", i)
		if named[c.GetName()] {
			refuse(path+".name", fmt.Sprintf("another credential is called %q; choose another name", c.GetName()))
		}
		named[c.GetName()] = true
		for j, caller := range c.GetCallers() {
			if !callers[caller] {
				refuse(fmt.Sprintf("%s.callers[%d]", path, j), fmt.Sprintf("no caller is called %q%s", caller, meant(caller, callers)))
			}
		}
		for j, origin := range c.GetOrigins() {
			if !strings.HasPrefix(origin, "https://") {
				refuse(fmt.Sprintf("%s.origins[%d]", path, j), "a credential goes to https alone, where nobody on the way can read it; write it like \"https://api.example.com\"")
			}
		}
		for j, method := range c.GetMethods() {
			if err := fetch.CheckMethod(method); err != nil {
				refuse(fmt.Sprintf("%s.methods[%d]", path, j), err.Error())
			}
		}
		checkSources(path, c, refuse)
	}
	for i, rule := range l.Config.GetRules() {
		for j, name := range rule.GetCredentials() {
			path := fmt.Sprintf("rules[%d].credentials[%d]", i, j)
			switch {
			case !named[name]:
				refuse(path, fmt.Sprintf("no credential is called %q%s", name, meant(name, named)))
			case slices.Contains(rule.GetCredentials()[:j], name):
				refuse(path, fmt.Sprintf("%q is in the list already; leave it out", name))
			}
		}
	}
}

// meant names what is nearest to a word that is none of known.
func meant(word string, known map[string]bool) string {
	names := make([]string, 0, len(known))
	for name := range known {
		names = append(names, name)
	}
	slices.Sort(names)
	if near := nearest(word, names); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	if len(names) == 0 {
		return ""
	}
	more := ""
	if n := len(names) - maxNames; n > 0 {
		names, more = names[:maxNames], fmt.Sprintf(" and %d more", n)
	}
	for i, name := range names {
		names[i] = shown(name)
	}
	return "; known are " + strings.Join(names, ", ") + more
}

// checkSources refuses names that are empty, which the schema takes where one of
// two may be set.
func checkSources(path string, c *configv1.HeldCredential, refuse func(path, message string)) {
	for field, s := range map[string]*configv1.Secret{
		"bearer.token": c.GetBearer().GetToken(), "basic.password": c.GetBasic().GetPassword(),
		"api_key.key": c.GetApiKey().GetKey(), "header.secret": c.GetHeader().GetSecret(),
	} {
		path := path + "." + field
		switch {
		case s == nil:
		case s.GetFile() == "" && s.GetEnv() == "":
			refuse(path, "it names no file and no variable; name one that holds the secret")
		case s.GetEnv() != "" && s.GetNextFile() != "":
			refuse(path+".next_file", "a variable cannot change while the server runs, so none comes next; name a file instead of env")
		}
	}
}
