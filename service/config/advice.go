package config

import (
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
)

const (
	// maxWordBytes is the longest word that is compared with the settings.
	maxWordBytes = 64
	// maxNames is how many settings are listed at once.
	maxNames = 15
)

var simpleWord = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// shown returns a key of the file as it may stand in a path.
func shown(key string) string {
	if simpleWord.MatchString(key) {
		return key
	}
	return shownText(key)
}

// advise says what to write instead of a key that d does not have.
func advise(key string, d protoreflect.MessageDescriptor) string {
	names := settingNames(d)
	for _, name := range names {
		if squeezed(name) == squeezed(key) {
			return "write " + name
		}
	}
	if slices.Contains(names, dangerousPrefix+key) {
		return "did you mean " + dangerousPrefix + key + "?"
	}
	if kinds := d.Oneofs().ByName(protoreflect.Name(key)); kinds != nil {
		return "write one of " + namesOf(kinds)
	}
	if near := nearest(key, names); near != "" {
		return "did you mean " + near + "?"
	}
	if owners := ownersOf(key); len(owners) > 0 {
		return "it belongs in " + alternatives(owners)
	}
	if len(names) > maxNames {
		return "docs/configuration.md lists the settings"
	}
	return "known here: " + strings.Join(names, ", ")
}

func settingNames(d protoreflect.MessageDescriptor) []string {
	var names []string
	for i := range d.Fields().Len() {
		names = append(names, string(d.Fields().Get(i).Name()))
	}
	return names
}

// squeezed returns a word without what camelCase, kebab-case and snake_case
// differ in.
func squeezed(word string) string {
	return strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(word))
}

// nearest returns the name that differs least from word, or "" if even that
// one differs in more than every third character.
func nearest(word string, names []string) string {
	if len(word) > maxWordBytes {
		return ""
	}
	best, least := "", max(1, len(word)/3)+1
	for _, name := range names {
		if d := distance(word, name); d < least {
			best, least = name, d
		}
	}
	return best
}

// distance is how many bytes must be added, removed, replaced or swapped with
// the next one to make b of a (optimal string alignment).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1) // rows[i][j] is the distance of a[:i] and b[:j]
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			replaced := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				replaced++
			}
			rows[i][j] = min(replaced, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// ownersOf returns the sections that have a setting called name.
func ownersOf(name string) []string {
	var owners []string
	var visit func(d protoreflect.MessageDescriptor, path string)
	visit = func(d protoreflect.MessageDescriptor, path string) {
		if path != "" && d.Fields().ByName(protoreflect.Name(name)) != nil {
			owners = append(owners, path)
		}
		for i := range d.Fields().Len() {
			field := d.Fields().Get(i)
			if field.Message() == nil || field.IsMap() || isDuration(field) {
				continue
			}
			inner := strings.TrimPrefix(path+"."+string(field.Name()), ".")
			if field.IsList() {
				inner += "[]"
			}
			visit(field.Message(), inner)
		}
	}
	visit((*configv1.Config)(nil).ProtoReflect().Descriptor(), "")
	slices.Sort(owners)
	return owners
}
